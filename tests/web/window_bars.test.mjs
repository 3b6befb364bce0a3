import assert from "node:assert/strict";
import { test } from "node:test";

import { windowBars } from "../../web/window_bars.js";

const SETTINGS = { length: 8, overlap: 2, stride: 1, schedule: "static", fuse: "flat", closed_loop: false };

test("windows that share frames lie in rows of their own, and rows are few", () => {
  const { numWindows, numRows, bars } = windowBars(SETTINGS, 20, 0);
  assert.equal(numWindows, 3);
  assert.equal(numRows, 2);
  for (const one of bars) {
    for (const other of bars) {
      const apart = one.first + one.length <= other.first || other.first + other.length <= one.first;
      assert.ok(one === other || one.row !== other.row || apart);
    }
  }
});

test("the shares of all bars add up to one at every frame", () => {
  const { bars } = windowBars({ ...SETTINGS, fuse: "pyramid" }, 20, 0);
  for (let frame = 0; frame < 20; frame += 1) {
    const here = bars.filter((bar) => bar.first <= frame && frame < bar.first + bar.length);
    assert.ok(Math.abs(here.reduce((sum, bar) => sum + bar.share, 0) - 1) < 1e-9);
  }
});

test("neighbours that count the same are one bar, and a window over the end is two", () => {
  const [first] = windowBars(SETTINGS, 8, 0).bars;
  assert.deepEqual(first, { row: 0, first: 0, length: 8, share: 1 });
  const looped = windowBars({ ...SETTINGS, overlap: 0, schedule: "looped", closed_loop: true }, 16, 3);
  assert.ok(looped.bars.some((bar) => bar.first === 0 && bar.length < 8));
});

test("a clip that fits one window has no seam", () => {
  assert.deepEqual(windowBars(SETTINGS, 8, 0).seams, []);
  assert.deepEqual(windowBars(SETTINGS, 14, 0).seams, [5, 7]);
});
