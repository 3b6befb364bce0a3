import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { moveKey, parseKeys, promptsOf } from "../../web/travel_keys.js";

const TABLE = JSON.parse(readFileSync(new URL("../data/travel_cases.json", import.meta.url), "utf-8"));

test("keys are those that are sampled, and bad lines are the ones that are refused", () => {
  assert.ok(TABLE.cases.some((each) => each.keys === null));
  for (const { text, keys, line } of TABLE.cases) {
    const found = parseKeys(text, TABLE.frames);
    if (keys === null) assert.equal(found.problem?.line, line, text);
    else assert.deepEqual(found.keys.map((key) => [key.first, key.last, key.prompt, key.line]), keys, text);
    assert.equal(found.problem === null, keys !== null, text);
  }
});

function moved(text, line, shift, numFrames = 32) {
  const key = parseKeys(text, numFrames).keys.find((each) => each.line === line);
  return moveKey(text, key, shift, numFrames);
}

test("a moved key keeps its text, its comment and all other lines", () => {
  assert.equal(moved("# travel\r\n0: a cat  # first\r\n12 :  a dog\r\n", 3, 4), "# travel\r\n0: a cat  # first\r\n16 :  a dog\r\n");
});

test("a range moves as a whole, and frames from the end stay so", () => {
  assert.equal(moved("0: a\n8-12: b", 2, 3), "0: a\n11-15: b");
  assert.equal(moved("0: a\n-4--2: b", 2, -1), "0: a\n-5--3: b");
});

test("a key stops at the clip's ends and at its neighbours", () => {
  assert.equal(moved("0: a\n8: b\n12: c", 2, 9), "0: a\n11: b\n12: c");
  assert.equal(moved("0: a\n8: b\n12: c", 2, -9), "0: a\n1: b\n12: c");
  assert.equal(moved("0: a\n8: b", 2, 99), "0: a\n31: b");
  assert.equal(moved("3: a", 1, -99), "0: a");
  assert.equal(moved("0: a\n-1: b", 2, 5), "0: a\n-1: b");
});

test("prompts come once each, in the order of their frames", () => {
  assert.deepEqual(promptsOf(parseKeys("8: b\n0: a\n16: a", 32).keys), ["a", "b"]);
});
