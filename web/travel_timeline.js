import { addPicture, valuesOf } from "./node_pictures.js";
import { shape, stretchedPicture } from "./svg.js";
import { moveKey, parseKeys, promptsOf } from "./travel_keys.js";

const NODE_TYPE = "MotionGraft_PromptTravel";
const TEXT = "prompts";
const WIDGET = { name: "travel_timeline", type: "MOTIONGRAFT_TRAVEL", height: 72 };
/** Turns of the colour wheel between prompts, by which neighbours are easily told apart. */
const GOLDEN_ANGLE = 137.5;
const ARROWS = { ArrowLeft: -1, ArrowRight: 1 };

/**
 * Gives PromptTravel a picture of its keys, which can be dragged: the text stays what counts, and follows them.
 * @param {typeof import("./host.js")} host
 * @param {object} node
 */
export function addTravelTimeline(host, node) {
  if (node.comfyClass === NODE_TYPE) addPicture(host, node, new TravelTimeline(document, node, host), WIDGET);
}

/** Frames across, each prompt a colour that changes into the next, the keys on top. */
class TravelTimeline {
  constructor(page, node, host) {
    Object.assign(this, { page, node, host, drawn: "", keys: [], drag: null });
    this.element = page.createElement("figure");
    this.element.className = "motiongraft-travel";
    this.picture = stretchedPicture(page);
    this.caption = page.createElement("figcaption");
    this.element.append(this.picture, this.caption);
    this.element.addEventListener("pointerdown", (event) => this.grasp(event));
    this.element.addEventListener("pointermove", (event) => this.pull(event));
    for (const end of ["pointerup", "pointercancel"]) this.element.addEventListener(end, () => (this.drag = null));
    this.element.addEventListener("keydown", (event) => this.push(event));
    this.element.addEventListener("focusin", (event) => this.tell(this.keyAt(event.target)));
    this.element.addEventListener("focusout", () => this.tell(null));
  }

  refresh() {
    const values = valuesOf(this.node);
    const state = JSON.stringify([values[TEXT], values.num_frames, values.interpolation, values.closed_loop]);
    if (state === this.drawn) return;
    this.drawn = state;
    const { keys, problem } = parseKeys(String(values[TEXT] ?? ""), values.num_frames);
    Object.assign(this, { keys: problem ? [] : keys, numFrames: values.num_frames });
    this.element.classList.toggle("is-impossible", problem !== null);
    const focused = this.page.activeElement?.dataset?.line;
    this.draw(values);
    this.summary = problem ? `line ${problem.line}: ${problem.words}` : this.inWords();
    this.picture.querySelector(`[data-line="${focused}"]`)?.focus();
    this.tell(this.keyAt(this.page.activeElement));
  }

  draw({ num_frames: numFrames, interpolation, closed_loop: closedLoop }) {
    this.picture.setAttribute("viewBox", `0 0 ${numFrames} 1`);
    const prompts = promptsOf(this.keys);
    const colour = (key) => `hsl(${(prompts.indexOf(key.prompt) * GOLDEN_ANGLE) % 360} 55% 50%)`;
    const ways = waysBetween(this.keys, numFrames, closedLoop);
    const shapes = ways.flatMap((way, index) => this.wayShapes(way, `${this.node.id}-${index}`, colour, interpolation));
    this.picture.replaceChildren(...shapes, ...this.keys.map((key) => this.keyShape(key, colour(key))));
  }

  /** One prompt becoming the next: a blend of both colours, or the first alone where prompts hold. */
  wayShapes({ from, to, first, end, x1, x2 }, name, colour, interpolation) {
    const band = { x: first, y: 0.3, width: Math.max(0, end - first), height: 0.4 };
    const changes = interpolation !== "hold" && from.prompt !== to.prompt;
    const id = `motiongraft-travel-${name}`;
    const fill = changes ? `url(#${id})` : colour(from);
    const rect = shape(this.page, "rect", { ...band, fill });
    if (!changes) return [rect];
    const stops = [from, to].map((key, offset) => shape(this.page, "stop", { offset, "stop-color": colour(key) }));
    const place = { id, gradientUnits: "userSpaceOnUse", x1, x2, y1: 0, y2: 0 };
    return [shape(this.page, "linearGradient", place, ...stops), rect];
  }

  keyShape(key, fill) {
    const { first, last, line, prompt } = key;
    const place = { x: first, y: 0.1, width: last - first + 1, height: 0.8, fill };
    const name = shape(this.page, "title", {});
    name.textContent = wordsOf(key);
    const told = { role: "slider", "aria-label": prompt, "aria-valuenow": first, "aria-valuemax": this.numFrames - 1 };
    return shape(this.page, "rect", { ...place, ...told, class: "key", tabindex: 0, "data-line": line }, name);
  }

  grasp(event) {
    const key = this.keyAt(event.target);
    if (!key) return;
    event.stopPropagation(); // else the node would be dragged
    this.element.setPointerCapture(event.pointerId);
    this.drag = { key, from: event.clientX, text: valuesOf(this.node)[TEXT] };
  }

  pull(event) {
    if (!this.drag) return;
    const way = (event.clientX - this.drag.from) / this.picture.getBoundingClientRect().width;
    this.write(moveKey(this.drag.text, this.drag.key, Math.round(way * this.numFrames), this.numFrames));
  }

  push(event) {
    const key = this.keyAt(event.target);
    if (!key || !(event.key in ARROWS)) return;
    event.preventDefault();
    event.stopPropagation();
    this.write(moveKey(valuesOf(this.node)[TEXT], key, ARROWS[event.key], this.numFrames));
  }

  write(text) {
    if (text !== valuesOf(this.node)[TEXT]) this.host.setWidgetValue(this.node, TEXT, text);
    this.refresh();
  }

  keyAt(element) {
    return this.keys.find((key) => String(key.line) === element?.dataset?.line) ?? null;
  }

  tell(key) {
    this.caption.textContent = key ? wordsOf(key) : this.summary;
  }

  inWords() {
    const count = promptsOf(this.keys).length;
    return `${count === 1 ? "one prompt" : `${count} prompts`} over ${this.numFrames} frames`;
  }
}

/**
 * From the end of each key to the beginning of the next; before the first and behind the last one these hold, or in a
 * closed loop the last changes into the first. A way that goes over the end is drawn in two pieces, `x1` to `x2` whole.
 */
function waysBetween(keys, numFrames, closedLoop) {
  if (!keys.length) return [];
  const inside = keys.slice(1).map((to, index) => wayOf(keys[index], to, keys[index].last + 1, to.first));
  const [first, last] = [keys[0], keys.at(-1)];
  if (!closedLoop || keys.length === 1) {
    return [wayOf(first, first, 0, first.first), ...inside, wayOf(last, last, last.last + 1, numFrames)];
  }
  const start = last.last + 1;
  const before = { ...wayOf(last, first, 0, first.first), x1: start - numFrames };
  return [before, ...inside, { ...wayOf(last, first, start, numFrames), x2: numFrames + first.first }];
}

function wayOf(from, to, first, end) {
  return { from, to, first, end, x1: first, x2: end };
}

function wordsOf({ first, last, prompt }) {
  return `${first === last ? first : `${first}-${last}`}: ${prompt}`;
}
