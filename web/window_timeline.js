import { framesBehind } from "./clip_frames.js";
import { addPicture, valuesOf } from "./node_pictures.js";
import { shape, stretchedPicture } from "./svg.js";
import { windowBars } from "./window_bars.js";
import { STANDING_STILL, whyNot } from "./window_indices.js";

/** The nodes that cut a clip into windows. */
const NODE_TYPES = new Set(["ContextWindow", "MotionGraft_ViewWindow"]);
const WIDGET = { name: "window_timeline", type: "MOTIONGRAFT_WINDOWS", height: 120 };
/** Windows that a clip is shown with where the graph does not tell its frames. */
const ASSUMED_WINDOWS = 4;
const MOST_FRAMES = 1000;
const MOST_STEPS = 24;

/**
 * Gives a node that cuts a clip into windows a picture of them, which follows its widgets.
 * @param {typeof import("./host.js")} host
 * @param {object} node
 */
export function addWindowTimeline(host, node) {
  if (NODE_TYPES.has(node.comfyClass)) addPicture(host, node, new WindowTimeline(document, node), WIDGET);
}

/** Frames across, windows as bars, their weights as shades, their ends as lines. */
class WindowTimeline {
  constructor(page, node) {
    this.page = page;
    this.node = node;
    this.drawn = "";
    this.element = page.createElement("figure");
    this.element.className = "motiongraft-windows";
    this.picture = stretchedPicture(page);
    this.picture.setAttribute("role", "img");
    this.caption = page.createElement("figcaption");
    this.step = page.createElement("input");
    Object.assign(this.step, { type: "range", min: 0, max: MOST_STEPS, value: 0, title: "The sampling step shown" });
    this.step.addEventListener("input", () => this.refresh());
    this.element.append(this.picture, this.step, this.caption);
  }

  refresh() {
    const settings = valuesOf(this.node);
    const known = framesBehind(this.node);
    const frames = Math.min(known ?? assumedFrames(settings), MOST_FRAMES);
    const moves = !STANDING_STILL.has(settings.schedule) && frames > settings.length;
    const step = moves ? Number(this.step.value) : 0;
    const state = JSON.stringify([settings, frames, known, step]);
    if (state === this.drawn) return;
    this.drawn = state;
    const objection = whyNot(settings);
    this.step.hidden = !moves || objection !== "";
    this.element.classList.toggle("is-impossible", objection !== "");
    if (objection) this.show([], objection);
    else this.draw(windowBars(settings, frames, step), settings, { frames, isKnown: known !== null, step, moves });
  }

  draw({ numWindows, numRows, bars, seams }, settings, { frames, isKnown, step, moves }) {
    this.picture.setAttribute("viewBox", `0 0 ${frames} ${numRows}`);
    const shapes = bars.map(({ row, first, length, share }) => {
      const place = { x: first, y: row + 0.1, width: length, height: 0.8 };
      return shape(this.page, "rect", { ...place, "fill-opacity": share });
    });
    const lines = seams.map((pair) => shape(this.page, "line", { x1: pair + 1, x2: pair + 1, y1: 0, y2: numRows }));
    const clip = `${frames} frames${isKnown ? "" : " (no latent connected)"}`;
    const windows = numWindows === 1 ? "one window" : `${numWindows} windows of ${settings.length}`;
    const shuffled = settings.schedule === "composite" && moves ? ", after the shuffled tenth" : "";
    this.show([...shapes, ...lines], `${clip}: ${windows}${moves ? `, step ${step + 1}` : ""}${shuffled}`);
  }

  show(shapes, text) {
    this.picture.replaceChildren(...shapes);
    this.picture.setAttribute("aria-label", text);
    this.caption.textContent = text;
  }
}

function assumedFrames({ length, overlap }) {
  return length + (ASSUMED_WINDOWS - 1) * Math.max(1, length - overlap);
}
