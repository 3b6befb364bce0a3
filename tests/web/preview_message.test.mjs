import assert from "node:assert/strict";
import { test } from "node:test";

import { altTextOf, captionOf, isLast, pictureRoute, playTimeOf } from "../../web/preview_message.js";

const message = {
  filename: "0123456789ab_0003.webp",
  subfolder: "motiongraft",
  type: "temp",
  step: 3,
  total_steps: 25,
  frames: 16,
  frames_per_second: 8,
};

test("the caption names the step, the steps and the frames", () => {
  assert.equal(captionOf(message), "step 3 of 25 · 16 frames");
});

test("the caption of a single frame is in the singular", () => {
  assert.equal(captionOf({ ...message, frames: 1 }), "step 3 of 25 · 1 frame");
});

test("the alternative text says what the picture is", () => {
  assert.equal(altTextOf(message), "Preview of the animation after step 3 of 25");
});

test("the picture comes from the server's view route", () => {
  const route = "/view?filename=0123456789ab_0003.webp&subfolder=motiongraft&type=temp";
  assert.equal(pictureRoute(message), route);
});

test("names are escaped in the picture's address", () => {
  const route = pictureRoute({ ...message, filename: "a b&c.webp" });
  assert.equal(new URL(route, "http://localhost").searchParams.get("filename"), "a b&c.webp");
});

test("sixteen frames at eight a second play for two seconds", () => {
  assert.equal(playTimeOf(message), 2000);
});

test("only the last step's picture is the last", () => {
  assert.equal(isLast(message), false);
  assert.equal(isLast({ ...message, step: 25 }), true);
});
