/**
 * What the server says with each picture (docs/events.md).
 * @typedef {object} PreviewMessage
 * @property {string} node_id
 * @property {string} display_node_id
 * @property {string} prompt_id
 * @property {string} filename
 * @property {string} subfolder
 * @property {string} type
 * @property {number} step the step that the picture shows, from 1
 * @property {number} total_steps
 * @property {number} frames
 * @property {number} frames_per_second
 */

/**
 * The route under which the server gives out the picture.
 * @param {PreviewMessage} message
 * @returns {string}
 */
export function pictureRoute({ filename, subfolder, type }) {
  return `/view?${new URLSearchParams({ filename, subfolder, type })}`;
}

/**
 * The line below the picture.
 * @param {PreviewMessage} message
 * @returns {string}
 */
export function captionOf({ step, total_steps, frames }) {
  return `step ${step} of ${total_steps} · ${frames} ${frames === 1 ? "frame" : "frames"}`;
}

/**
 * What a screen reader says in the picture's place.
 * @param {PreviewMessage} message
 * @returns {string}
 */
export function altTextOf({ step, total_steps }) {
  return `Preview of the animation after step ${step} of ${total_steps}`;
}

/**
 * How long the clip plays before it starts over, in milliseconds.
 * @param {PreviewMessage} message
 * @returns {number}
 */
export function playTimeOf({ frames, frames_per_second }) {
  return (1000 * frames) / frames_per_second;
}

/**
 * Whether a better picture will follow.
 * @param {PreviewMessage} message
 * @returns {boolean}
 */
export function isLast({ step, total_steps }) {
  return step >= total_steps;
}
