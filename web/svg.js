const SVG = "http://www.w3.org/2000/svg";

/**
 * A picture that takes all of its place, whatever its proportions.
 * @param {Document} page
 * @returns {SVGSVGElement}
 */
export function stretchedPicture(page) {
  const picture = page.createElementNS(SVG, "svg");
  picture.setAttribute("preserveAspectRatio", "none");
  return picture;
}

/**
 * @param {Document} page
 * @param {string} name such as `rect`
 * @param {Record<string, string | number>} attributes
 * @param {...Element} children
 * @returns {SVGElement}
 */
export function shape(page, name, attributes, ...children) {
  const made = page.createElementNS(SVG, name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  made.append(...children);
  return made;
}
