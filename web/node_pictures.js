/** Pictures in nodes that follow the workflow: each has `refresh()`, which draws again what has changed. */

const pictures = new Set();

/**
 * Puts a picture into a node, and keeps it up to date as long as the node is in the graph.
 * @param {typeof import("./host.js")} host
 * @param {object} node
 * @param {{element: HTMLElement, refresh: () => void}} picture
 * @param {{name: string, type: string, height: number}} widget
 */
export function addPicture(host, node, picture, { name, type, height }) {
  pictures.add(picture);
  host.addElement(node, name, type, picture.element, height, () => pictures.delete(picture));
  host.onWidgetChange(node, () => picture.refresh());
  picture.refresh();
}

/** Draws every picture again whose node has other values, or another clip. */
export function refreshPictures() {
  pictures.forEach((picture) => picture.refresh());
}

/**
 * The values of a node's widgets by name.
 * @param {object} node
 * @returns {Record<string, any>}
 */
export function valuesOf(node) {
  return Object.fromEntries((node.widgets ?? []).map((widget) => [widget.name, widget.value]));
}
