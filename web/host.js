/** The one file that knows the editor: if ComfyUI moves something, it is mended here. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

/** Between an element and the edge of its node; the editor takes it off the widget's height. */
const MARGIN = 10;

/**
 * Makes an extension part of the editor.
 * @param {object} extension name and hooks, as the editor's `app.registerExtension` takes them
 */
export function registerExtension(extension) {
  app.registerExtension(extension);
}

/**
 * Calls back with the payload of every message of this type that the server sends to this editor.
 * @param {string} type
 * @param {(message: object) => void} callback
 */
export function onServerMessage(type, callback) {
  api.addEventListener(type, (event) => callback(event.detail));
}

/**
 * The workflow that is open, with its subgraphs below it.
 * @returns {object} the editor's graph
 */
export function openGraph() {
  return app.rootGraph;
}

/**
 * A route of the server as an address that the browser can load, wherever the server is mounted.
 * @param {string} route starts with a slash
 * @returns {string}
 */
export function serverUrl(route) {
  return api.apiURL(route);
}

/**
 * Adds a widget that is drawn by an HTML element, in both renderers, and that no saved workflow remembers.
 * @param {object} node
 * @param {string} name
 * @param {string} type a name of our own: an unknown type is what makes Vue nodes show the element
 * @param {HTMLElement} element
 * @param {number} height the least that the element needs, in pixels of the unzoomed canvas
 * @param {() => void} onRemoved called when the node leaves the graph
 */
export function addElement(node, name, type, element, height, onRemoved) {
  const options = { serialize: false, hideOnZoom: false, margin: MARGIN, getMinHeight: () => height + 2 * MARGIN };
  // The classic canvas asks for getMinHeight, Vue nodes go by the page's own layout.
  element.style.minHeight = `${height}px`;
  const widget = node.addDOMWidget(name, type, element, options);
  // options.serialize speaks of queued prompts, widget.serialize of saved workflows.
  widget.serialize = false;
  widget.serializeValue = () => undefined;
  const onNodeRemoved = node.onRemoved;
  node.onRemoved = function (...args) {
    onRemoved();
    return onNodeRemoved?.apply(this, args);
  };
  // A workflow that was saved without the element has no room for it.
  follow(node, "onConfigure", () => node.expandToFitContent());
  node.expandToFitContent();
  node.setDirtyCanvas(true, true);
}

/**
 * Calls back when a widget of a node gets another value: by hand, or from a workflow that is opened.
 * @param {object} node
 * @param {() => void} callback
 */
export function onWidgetChange(node, callback) {
  for (const widget of node.widgets ?? []) follow(widget, "callback", callback);
  follow(node, "onConfigure", callback);
}

/** Calls back after a method of the editor's, which others may have followed too. */
function follow(owner, name, callback) {
  const before = owner[name];
  owner[name] = function (...args) {
    const result = before?.apply(this, args);
    callback();
    return result;
  };
}

/**
 * Gives a widget of a node a value, as its user would by hand.
 * @param {object} node
 * @param {string} name
 * @param {any} value
 */
export function setWidgetValue(node, name, value) {
  const widget = node.widgets?.find((each) => each.name === name);
  if (!widget) return;
  widget.value = value;
  widget.callback?.(value);
  node.setDirtyCanvas(true, true);
}

/**
 * Calls back when nodes, links or values of the open workflow have changed.
 * @param {() => void} callback
 */
export function onGraphChange(callback) {
  api.addEventListener("graphChanged", callback);
}

/**
 * Makes the rules of a style sheet hold in the editor.
 * @param {URL} url
 */
export function addStyleSheet(url) {
  const link = document.createElement("link");
  link.rel = "stylesheet";
  link.href = url.href;
  document.head.append(link);
}
