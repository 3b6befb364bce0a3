import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { frameShares, seamPairs, whyNot, windowIndices } from "../../web/window_indices.js";

const CASES = JSON.parse(readFileSync(new URL("../data/window_cases.json", import.meta.url), "utf-8"));
const ROUNDED = 2e-5;
const PLAIN = { length: 8, overlap: 2, stride: 1, schedule: "static", fuse: "pyramid", closed_loop: false };

test("windows are those that are sampled", () => {
  assert.ok(CASES.length > 50);
  for (const { settings, frames, step, windows } of CASES) {
    assert.deepEqual(windowIndices(settings, frames, step), windows, JSON.stringify({ settings, frames, step }));
  }
});

test("shares are those with which predictions are fused", () => {
  for (const { settings, frames, windows, shares } of CASES) {
    const found = frameShares(settings, windows, frames);
    found.flat().forEach((share, place) => {
      assert.ok(Math.abs(share - shares.flat()[place]) < ROUNDED, JSON.stringify({ settings, frames, found, shares }));
    });
  }
});

test("a seam lies where a window begins or ends inside the clip", () => {
  assert.deepEqual(seamPairs(windowIndices(PLAIN, 20, 0), 20), [5, 7, 11, 13]);
  assert.deepEqual(seamPairs([[0, 1, 2]], 3), []);
  assert.deepEqual(seamPairs([[6, 7, 0, 1]], 8), [1, 5]);
});

test("settings that exclude each other are said, and no others", () => {
  assert.equal(whyNot(PLAIN), "");
  assert.match(whyNot({ ...PLAIN, overlap: 8 }), /overlap 8 must be smaller than length 8/);
  assert.match(whyNot({ ...PLAIN, closed_loop: true }), /needs schedule looped/);
  assert.match(whyNot({ ...PLAIN, schedule: "looped", fuse: "relative" }), /relative/);
  assert.match(whyNot({ ...PLAIN, schedule: "composite", fuse: "overlap-linear" }), /composite/);
});
