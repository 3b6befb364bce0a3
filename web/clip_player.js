/** A figure whose clip plays in a loop and gives way to better ones. */
export class ClipPlayer {
  #document;
  #picture;
  #caption;
  #shows = 0;
  #newestLoaded = 0;
  #waiting = null;
  #timer = null;

  /** @param {Document} document the page that the figure goes into */
  constructor(document) {
    this.#document = document;
    this.#picture = document.createElement("img");
    this.#caption = document.createElement("figcaption");
    /** What to put into the page. */
    this.element = document.createElement("figure");
    this.element.className = "motiongraft-preview";
    this.element.append(this.#picture, this.#caption);
  }

  /**
   * Shows a clip once it is loaded and the one on display has played to its end. Clips come faster than they play, and
   * a new one starts at its first frame: without the wait nobody sees the last frames. Of several waiting, the newest wins.
   * @param {{url: string, caption: string, alt: string, playTime: number, isLast: boolean}} clip
   *   playTime in milliseconds; the last clip of a run does not wait
   */
  show(clip) {
    const turn = ++this.#shows;
    const picture = this.#document.createElement("img");
    picture.alt = clip.alt;
    // There is no onerror: a picture that is gone (the server keeps the last few) leaves the one on display.
    picture.onload = () => {
      if (turn > this.#newestLoaded) this.#line(turn, { ...clip, picture });
    };
    picture.src = clip.url;
  }

  /** Drops what is loading or waiting; the clip on display stays. */
  stop() {
    this.#newestLoaded = this.#shows;
    this.#waiting = null;
    clearTimeout(this.#timer);
    this.#timer = null;
  }

  #line(turn, clip) {
    this.#newestLoaded = turn;
    this.#waiting = clip;
    if (clip.isLast) clearTimeout(this.#timer);
    if (clip.isLast || this.#timer === null) this.#swap();
  }

  #swap() {
    const { picture, caption, playTime } = this.#waiting;
    this.#waiting = null;
    this.#picture.replaceWith(picture);
    this.#picture = picture;
    this.#caption.textContent = caption;
    this.#timer = setTimeout(() => this.#playedOnce(), playTime);
  }

  #playedOnce() {
    this.#timer = null;
    if (this.#waiting) this.#swap();
  }
}
