/* The page that is looked at: one view, or two beside each other, with heat maps and boxes over it. */

import { h } from "./dom.js";
import { paint } from "./colors.js";

const at4 = ([left, top, right, bottom]) => ({
  left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`,
});

/** A box over a page; sides are shares of the page's width and height. */
function boxElement(box, kind) {
  const element = h("i", { class: `box ${kind}` });
  Object.assign(element.style, at4(box));
  return element;
}

export class Stage {
  /** @param root where views are put  @param note where it is said what they show */
  constructor(root, note) {
    this.root = root;
    this.note = note;
    this.page = null;
    this.names = [];
    this.views = [];
  }

  /** Show a page once for every name; the names stand above the views where there are several. */
  show(page, names = [""]) {
    if (this.page === page && this.names.join("\n") === names.join("\n")) return;
    this.page = page;
    this.names = names;
    this.views = page === null ? [] : names.map((name) => this.#view(page, name));
    this.root.classList.toggle("two", names.length > 1);
    this.root.replaceChildren(...this.views.map((view) => view.figure));
    this.say("");
  }

  #view(page, name) {
    const canvas = h("canvas", { width: 1, height: 1, "aria-hidden": "true" });
    const boxes = h("div", { class: "boxes", "aria-hidden": "true" });
    const alt = name ? `${page.title}, with what ${name} looked at` : page.title;
    const image = h("img", { src: page.url, alt, width: page.width, height: page.height });
    const sheet = h("div", { class: "sheet" }, image, canvas, boxes);
    sheet.style.setProperty("--ratio", page.width / page.height);
    const figure = h("figure", {}, name ? h("figcaption", {}, name) : null, sheet);
    return { figure, sheet, canvas, boxes, latest: null };
  }

  /** Put a map over a view and a box around its peak; without a map the page is as it was. */
  async heat(index, url, peak = null) {
    const view = this.views[index];
    if (!view) return;
    view.latest = url;
    view.boxes.replaceChildren(...(peak ? [boxElement(peak, "peak")] : []));
    if (peak) this.#reveal(view.boxes.firstChild);
    view.sheet.classList.toggle("looked", url !== null);
    if (url === null) return;
    const image = new Image();
    image.src = url;
    await image.decode();
    // Another token may have been pointed at while this map was decoded.
    if (view.latest !== url) return;
    view.canvas.width = image.naturalWidth;
    view.canvas.height = image.naturalHeight;
    const context = view.canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, view.canvas.width, view.canvas.height);
    paint(pixels.data);
    context.putImageData(pixels, 0, 0);
    this.root.dataset.shown = String(Number(this.root.dataset.shown ?? 0) + 1);
  }

  /** Mark a place on every view and bring it into sight. */
  mark(box) {
    this.clear();
    for (const view of this.views) {
      const element = boxElement(box, "place");
      view.boxes.replaceChildren(element);
      this.#reveal(element);
    }
  }

  /* Only the stage scrolls, where it is enlarged: the words that are pointed at stay where they are. */
  #reveal(element) {
    const room = this.root.getBoundingClientRect(), box = element.getBoundingClientRect();
    if (box.top < room.top || box.bottom > room.bottom) this.root.scrollTop += box.top - room.top - room.height / 3;
    if (box.left < room.left || box.right > room.right) this.root.scrollLeft += box.left - room.left - room.width / 3;
  }

  /** Take maps and boxes away. */
  clear() {
    this.views.forEach((view, index) => {
      this.heat(index, null);
      view.boxes.replaceChildren();
    });
    this.say("");
  }

  say(...content) {
    this.note.replaceChildren(...content.filter(Boolean));
  }
}
