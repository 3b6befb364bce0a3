import { frameShares, seamPairs, windowIndices } from "./window_indices.js";

/**
 * @typedef {object} WindowBars what a timeline shows, in frames across and rows down
 * @property {number} numWindows
 * @property {number} numRows
 * @property {{row: number, first: number, length: number, share: number}[]} bars neighbouring frames of one window that
 *   count the same
 * @property {number[]} seams between frame i and i + 1 a window begins or ends
 */

/**
 * The windows of a clip as bars that do not cover each other.
 * @param {import("./window_indices.js").WindowSettings} settings
 * @param {number} numFrames
 * @param {number} step
 * @returns {WindowBars}
 */
export function windowBars(settings, numFrames, step) {
  const windows = windowIndices(settings, numFrames, step);
  const shares = frameShares(settings, windows, numFrames);
  const rows = [];
  const bars = windows.flatMap((window, index) => {
    const row = freeRow(rows, window);
    return runsOf(window, shares[index]).map((run) => ({ row, ...run }));
  });
  return { numWindows: windows.length, numRows: rows.length, bars, seams: seamPairs(windows, numFrames) };
}

/** The first row in which no window holds any of these frames; they are taken then. */
function freeRow(rows, window) {
  const found = rows.findIndex((taken) => !window.some((frame) => taken.has(frame)));
  const row = found < 0 ? rows.push(new Set()) - 1 : found;
  window.forEach((frame) => rows[row].add(frame));
  return row;
}

function runsOf(window, shares) {
  const runs = [];
  window.forEach((frame, place) => {
    const last = runs.at(-1);
    if (last && last.first + last.length === frame && last.share === shares[place]) last.length += 1;
    else runs.push({ first: frame, length: 1, share: shares[place] });
  });
  return runs;
}
