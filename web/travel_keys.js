/**
 * The lines of PromptTravel as keys: the same as sampling/prompt_travel.py, which says why.
 * tests/data/travel_cases.json holds the two to each other.
 */

const KEY = /^(\s*)(-?\d{1,9})(?:(\s*-\s*)(-?\d{1,9}))?(\s*[:\uff1a]\s*)(.*)$/u;
const COMMENT = /^\s*#|\s\s#/u;
const LINE_ENDS = /\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]/u;

/**
 * @typedef {object} Key a prompt at a frame, or held over a range
 * @property {number} first
 * @property {number} last
 * @property {string} prompt
 * @property {number} line counted from 1
 */

/**
 * The keys of a text in the order of their frames, and the first line that cannot be one.
 * @param {string} text
 * @param {number} numFrames
 * @returns {{keys: Key[], problem: {line: number, words: string} | null}}
 */
export function parseKeys(text, numFrames) {
  const keys = [];
  const lines = text.split(LINE_ENDS);
  for (const [index, whole] of lines.entries()) {
    const line = withoutComment(whole).trim();
    if (!line) continue;
    const key = keyOf(line, index + 1, numFrames);
    if (key.words) return { keys: [], problem: { line: index + 1, words: key.words } };
    keys.push(key);
  }
  if (!keys.length) return { keys, problem: { line: 1, words: "no line such as `0: a cat`" } };
  keys.sort((one, other) => one.first - other.first);
  return { keys, problem: overlap(keys) };
}

/**
 * The text with a key moved by some frames, as far as the clip and its neighbours let it; all else as it was written.
 * @param {string} text
 * @param {Key} key
 * @param {number} shift
 * @param {number} numFrames
 * @returns {string}
 */
export function moveKey(text, key, shift, numFrames) {
  const { keys } = parseKeys(text, numFrames);
  const place = keys.findIndex((each) => each.line === key.line);
  if (place < 0) return text;
  const { first, last } = keys[place];
  const least = (keys[place - 1]?.last ?? -1) + 1 - first;
  const most = (keys[place + 1]?.first ?? numFrames) - 1 - last;
  const moved = Math.min(Math.max(shift, least), most);
  return moved === 0 ? text : withLine(text, key.line, (line) => shifted(line, moved));
}

/**
 * The distinct prompts of keys, in the order in which they come.
 * @param {Key[]} keys
 * @returns {string[]}
 */
export function promptsOf(keys) {
  return [...new Set(keys.map((key) => key.prompt))];
}

function keyOf(line, number, numFrames) {
  const found = KEY.exec(line);
  if (!found) return { words: "expected `frame: prompt`, such as `0: a cat`" };
  const written = [found[2], found[4] ?? found[2]].map(Number);
  const outside = written.find((frame) => frame < -numFrames || frame >= numFrames);
  if (outside !== undefined) return { words: `frame ${outside} is not in the clip of ${numFrames}` };
  const [first, last] = written.map((frame) => (frame + numFrames) % numFrames);
  if (last < first) return { words: `the range ${first}-${last} runs backwards` };
  return { first, last, prompt: found[6], line: number };
}

function overlap(keys) {
  const place = keys.findIndex((key, index) => index > 0 && key.first <= keys[index - 1].last);
  if (place < 0) return null;
  const line = Math.max(keys[place].line, keys[place - 1].line);
  return { line, words: `frame ${keys[place].first} has a prompt already` };
}

function withoutComment(line) {
  const found = COMMENT.exec(line);
  return found ? line.slice(0, found.index) : line;
}

/** Numbers that count from the end stay so: -1 moved back is -2. */
function shifted(line, by) {
  return line.replace(KEY, (_, space, first, dash, last, colon, rest) => {
    const range = last === undefined ? "" : dash + moved(last, by);
    return space + moved(first, by) + range + colon + rest;
  });
}

function moved(written, by) {
  const frame = Number(written) + by;
  // Moved over the end of the clip, a number from the end would be one from the start.
  return String(written.startsWith("-") && frame >= 0 ? -1 : frame);
}

function withLine(text, number, change) {
  const ends = [...text.matchAll(new RegExp(LINE_ENDS, "gu"))].map((end) => end[0]);
  const lines = text.split(LINE_ENDS);
  lines[number - 1] = change(lines[number - 1]);
  return lines.map((line, index) => line + (ends[index] ?? "")).join("");
}
