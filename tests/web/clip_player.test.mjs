import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

import { ClipPlayer } from "../../web/clip_player.js";

const PLAY_TIME = 2000;

/** As much of an HTML element as the player uses. */
class FakeElement {
  constructor() {
    this.children = [];
  }

  append(...children) {
    for (const child of children) child.parent = this;
    this.children.push(...children);
  }

  replaceWith(other) {
    const siblings = this.parent.children;
    other.parent = this.parent;
    siblings[siblings.indexOf(this)] = other;
  }
}

let created;
let player;

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
  created = [];
  player = new ClipPlayer({
    createElement() {
      const element = new FakeElement();
      created.push(element);
      return element;
    },
  });
});

function show(name, isLast = false) {
  player.show({ url: name, caption: `caption of ${name}`, alt: `alt of ${name}`, playTime: PLAY_TIME, isLast });
  return created.at(-1);
}

function onDisplay() {
  const [picture, caption] = player.element.children;
  return [picture.src, caption.textContent];
}

test("a picture is on display only once it has loaded", () => {
  const first = show("first");
  assert.deepEqual(onDisplay(), [undefined, undefined]);
  first.onload();
  assert.deepEqual(onDisplay(), ["first", "caption of first"]);
});

test("a picture has its alternative text", () => {
  assert.equal(show("first").alt, "alt of first");
});

test("the next clip waits until the one on display has played to its end", () => {
  show("first").onload();
  show("second").onload();
  mock.timers.tick(PLAY_TIME - 1);
  assert.deepEqual(onDisplay(), ["first", "caption of first"]);
  mock.timers.tick(1);
  assert.deepEqual(onDisplay(), ["second", "caption of second"]);
});

test("of several clips that wait, the newest is shown", () => {
  show("first").onload();
  show("second").onload();
  show("third").onload();
  mock.timers.tick(PLAY_TIME);
  assert.equal(onDisplay()[0], "third");
});

test("a clip that has played once gives way at once", () => {
  show("first").onload();
  mock.timers.tick(PLAY_TIME);
  show("second").onload();
  assert.equal(onDisplay()[0], "second");
});

test("the last clip of a run does not wait, and plays its full time before the next run's", () => {
  show("first").onload();
  mock.timers.tick(PLAY_TIME - 1);
  show("last", true).onload();
  assert.equal(onDisplay()[0], "last");
  show("next run").onload();
  mock.timers.tick(PLAY_TIME - 1);
  assert.equal(onDisplay()[0], "last");
  mock.timers.tick(1);
  assert.equal(onDisplay()[0], "next run");
});

test("an older picture that loads late is dropped", () => {
  const first = show("first");
  show("second").onload();
  first.onload();
  mock.timers.tick(PLAY_TIME);
  assert.equal(onDisplay()[0], "second");
});

test("a picture that never loads leaves the one on display", () => {
  show("first").onload();
  show("gone");
  mock.timers.tick(PLAY_TIME);
  assert.equal(onDisplay()[0], "first");
});

test("a stopped player shows nothing more of what it was given", () => {
  show("first").onload();
  show("waiting").onload();
  const loading = show("loading");
  player.stop();
  mock.timers.tick(PLAY_TIME);
  loading.onload();
  assert.equal(onDisplay()[0], "first");
});
