/**
 * Where the windows of a clip lie and how much each counts: the same as sampling/window_indices.py, which says why.
 * tests/data/window_cases.json holds the two to each other.
 */

const BELL_WIDTH = 0.25;
const SMALLEST_WEIGHT = 1e-37;
/** Share of the sampling in which `composite` shuffles its frames; after it, it is `uniform`. */
export const EARLY = 0.1;
/** The schedules whose windows are the same at every step. */
export const STANDING_STILL = new Set(["static", "batched"]);

/**
 * @typedef {object} WindowSettings as the widgets of ContextWindow and ViewWindow have them
 * @property {number} length
 * @property {number} overlap
 * @property {number} stride
 * @property {string} schedule
 * @property {string} fuse
 * @property {boolean} closed_loop
 */

/**
 * The windows of a clip at a step, each a list of frames; `composite` as it is behind its shuffled beginning.
 * @param {WindowSettings} settings
 * @param {number} numFrames
 * @param {number} step
 * @returns {number[][]}
 */
export function windowIndices(settings, numFrames, step) {
  if (numFrames <= settings.length) return [neighbours(0, numFrames)];
  return completed(WINDOWS[settings.schedule](settings, numFrames, step), settings.length, numFrames);
}

/**
 * What each window gives to each of its frames; at every frame of the clip the shares add up to one.
 * @param {WindowSettings} settings
 * @param {number[][]} windows
 * @param {number} numFrames
 * @returns {number[][]}
 */
export function frameShares(settings, windows, numFrames) {
  const weights = windows.map((window) => fuseWeights(settings, window, numFrames));
  const sums = new Array(numFrames).fill(0);
  windows.forEach((window, index) => window.forEach((frame, place) => (sums[frame] += weights[index][place])));
  return windows.map((window, index) => window.map((frame, place) => weights[index][place] / sums[frame]));
}

/**
 * Pairs of frames, i and i + 1, between which a window begins or ends.
 * @param {number[][]} windows
 * @param {number} numFrames
 * @returns {number[]}
 */
export function seamPairs(windows, numFrames) {
  const edges = new Set();
  for (const window of windows) {
    const frames = new Set(window);
    for (const frame of window) {
      if (!frames.has(frame - 1)) edges.add(frame - 1);
      if (!frames.has(frame + 1)) edges.add(frame);
    }
  }
  return [...edges].filter((pair) => pair >= 0 && pair < numFrames - 1).sort((one, other) => one - other);
}

/**
 * Why such windows cannot be, in the words of the node's error; empty if they can.
 * @param {WindowSettings} settings
 * @returns {string}
 */
export function whyNot(settings) {
  const { length, overlap, schedule, fuse } = settings;
  if (overlap >= length) return `overlap ${overlap} must be smaller than length ${length}`;
  if (settings.closed_loop && schedule !== "looped") return "closed_loop needs schedule looped";
  if (fuse === "relative" && schedule === "looped") return "fuse relative does not go with schedule looped";
  if (fuse === "overlap-linear" && schedule === "composite") return "fuse overlap-linear does not go with composite";
  return "";
}

function staticWindows({ length, overlap }, numFrames) {
  const last = numFrames - length;
  return steps(0, last + length - overlap, length - overlap).map((first) => neighbours(Math.min(first, last), length));
}

function batched({ length }, numFrames) {
  return steps(0, numFrames, length).map((first) => neighbours(first, Math.min(length, numFrames - first)));
}

function looped(settings, numFrames, step) {
  const { length, overlap } = settings;
  const shift = halving(step);
  const offset = roundHalfToEven(numFrames * shift);
  const end = numFrames + offset - (settings.closed_loop ? 0 : overlap);
  return spacings(settings, numFrames).flatMap((spacing) =>
    steps(Math.floor(shift * spacing) + offset, end, length * spacing - overlap).map((first) =>
      neighbours(0, length).map((place) => (first + place * spacing) % numFrames),
    ),
  );
}

function uniform(settings, numFrames, step) {
  const waiting = looped(settings, numFrames, step);
  const windows = [];
  while (waiting.length) {
    let window = waiting.shift();
    const turn = window.findIndex((frame, place) => place > 0 && frame < window[place - 1]);
    if (turn > 0) {
      const firstAfter = window[turn];
      window = movedToEnd(window, numFrames);
      const following = waiting[0] ?? windows[0] ?? window;
      if (!following.includes(firstAfter)) waiting.unshift(neighbours(firstAfter, settings.length));
    }
    windows.push(window);
  }
  return eachOnce(windows);
}

const WINDOWS = { static: staticWindows, batched, looped, uniform, composite: uniform };

function spacings({ length, stride }, numFrames) {
  const most = Math.ceil(Math.log2(numFrames / length)) + 1;
  return neighbours(0, Math.min(stride, most)).map((power) => 2 ** power);
}

/** The step's binary digits behind the point, in reverse: 0, 1/2, 1/4, 3/4, 1/8, … */
function halving(step) {
  const digits = [...step.toString(2)].reverse().join("");
  return parseInt(digits, 2) / 2 ** digits.length;
}

function movedToEnd(window, numFrames) {
  const fromFirst = window.map((frame) => (frame - window[0] + numFrames) % numFrames);
  const shift = numFrames - 1 - fromFirst.at(-1);
  return fromFirst.map((frame) => frame + shift);
}

function eachOnce(windows) {
  const seen = new Set();
  return windows.filter((window) => !seen.has(window.join()) && seen.add(window.join()));
}

function completed(windows, length, numFrames) {
  const whole = windows.filter((window) => isWhole(window, length, numFrames));
  const missing = new Set(neighbours(0, numFrames));
  const cover = (window) => window.forEach((frame) => missing.delete(frame));
  whole.forEach(cover);
  while (missing.size) {
    whole.push(neighbours(Math.min(...missing, numFrames - length), length));
    cover(whole.at(-1));
  }
  return whole;
}

function isWhole(window, length, numFrames) {
  return new Set(window).size === length && Math.min(...window) >= 0 && Math.max(...window) < numFrames;
}

function fuseWeights(settings, window, numFrames) {
  const { overlap, schedule, fuse } = settings;
  const length = window.length;
  const hasRamp = overlap > 0 && schedule !== "batched";
  if (fuse === "flat" || (fuse === "overlap-linear" && !hasRamp)) return window.map(() => 1);
  if (fuse === "overlap-linear") return ramps(window, overlap, numFrames);
  if (fuse === "relative") return nearness(window);
  if (fuse === "gaussian") {
    return window.map((_, place) => Math.exp(-(((place - (length - 1) / 2) / (BELL_WIDTH * length)) ** 2) / 2));
  }
  return window.map((_, place) => Math.min(place, length - 1 - place) + 1);
}

function ramps(window, overlap, numFrames) {
  const weights = window.map(() => 1);
  const ramp = neighbours(0, overlap).map((place) => (overlap > 1 ? place / (overlap - 1) : 0) || SMALLEST_WEIGHT);
  if (Math.min(...window) > 0) weights.splice(0, overlap, ...ramp);
  if (Math.max(...window) < numFrames - 1) {
    // As torch.linspace(1, SMALLEST_WEIGHT, 1) does, a ramp of one frame keeps its beginning.
    weights.splice(-overlap, overlap, ...(overlap > 1 ? [...ramp].reverse() : [1]));
  }
  return weights;
}

function nearness(window) {
  const [first, last] = [window[0], window.at(-1)];
  const [middle, half] = [(first + last) / 2, (last - first + 1e-2) / 2];
  return window.map((frame) => Math.max(1e-2, 1 - Math.abs(frame - middle) / half));
}

function neighbours(first, length) {
  return Array.from({ length }, (_, place) => first + place);
}

function steps(first, end, by) {
  return Array.from({ length: Math.max(0, Math.ceil((end - first) / by)) }, (_, index) => first + index * by);
}

/** As Python rounds. */
function roundHalfToEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}
