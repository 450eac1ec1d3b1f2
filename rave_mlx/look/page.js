"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const bytes = (text) => {
    const raw = atob(text), out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  };
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const percent = (x) => `${(100 * x).toFixed(Math.abs(x) < 0.1 ? 1 : 0)} %`;
  for (const run of data.runs) {
    run.weights = bytes(run.weights); run.peaks = floats(run.peaks); run.mass = floats(run.mass);
    run.said = run.tokens.map((t, i) => (t.stop ? -1 : i)).filter((i) => i >= 0);
    if (!run.said.length) run.said = run.tokens.map((_, i) => i);
  }
  for (const image of data.images) image.boxes = floats(image.boxes);
  const colors = { plain: bytes(data.scale), signed: bytes(data.difference) };
  const visual = data.images.reduce((sum, image) => sum + image.boxes.length / 4, 0);
  // token -1: the whole answer. layer -1: the mean of the default layers. head -1: the mean of all heads.
  const state = { run: 0, against: -1, token: -1, preview: null, layer: -1, head: -1 };

  const layersOf = () => (state.layer < 0 ? data.layers.chosen : [state.layer]);

  // Attention over all visual tokens of one token, layer and channel: 8 bits of the root, scaled by the row's peak.
  function addRow(out, run, token, layer, channel, factor) {
    const channels = run.heads.kept[0].length + 1;
    const row = (token * data.layers.count + layer) * channels + channel;
    const peak = run.peaks[row] * factor / 65025, base = row * visual;
    for (let i = 0; i < visual; i++) out[i] += peak * run.weights[base + i] ** 2;
  }

  function values(run, token) {
    const out = new Float64Array(visual), layers = layersOf(), tokens = token < 0 ? run.said : [token];
    for (const t of tokens) for (const l of layers) {
      const channel = state.head < 0 ? 0 : run.heads.kept[l].indexOf(state.head) + 1;
      addRow(out, run, t, l, channel, 1 / (layers.length * tokens.length));
    }
    return out;
  }

  function massOf(run, token) {
    const out = [0, 0, 0], layers = layersOf(), tokens = token < 0 ? run.said : [token];
    const heads = state.head < 0 ? [...Array(run.heads.count).keys()] : [state.head];
    for (const t of tokens) for (const l of layers) for (const h of heads) for (let k = 0; k < 3; k++)
      out[k] += run.mass[((t * data.layers.count + l) * run.heads.count + h) * 3 + k]
        / (tokens.length * layers.length * heads.length);
    return out;
  }

  // Two answers can be compared token by token up to the first that differs: it was chosen after the same words.
  function shared(token) {
    if (state.against < 0 || token < 0) return token;
    const a = data.runs[state.run].tokens, b = data.runs[state.against].tokens;
    for (let i = 0; i < token; i++) if (!b[i] || a[i].id !== b[i].id) return null;
    return b[token] ? token : null;
  }

  function shown(run, token) {
    const mine = values(run, token);
    if (state.against < 0) return mine;
    const other = values(data.runs[state.against], token);
    return mine.map((v, i) => v - other[i]);
  }

  function densities(image, first, all) {
    const cell = image.cell[0] * image.cell[1], out = [];
    for (let i = 0; i < image.boxes.length / 4; i++) {
      const [l, t, r, b] = image.boxes.subarray(4 * i, 4 * i + 4);
      if (!Number.isNaN(l)) out.push([l, t, r, b, all[first + i] * cell / ((r - l) * (b - t))]);
    }
    return out;
  }

  // As in maps.spread: every box adds its density, by differences at its corners and two running sums.
  function heat(image, first, all, width, height) {
    const w = width + 1, sums = new Float64Array(w * (height + 1));
    const sx = width / image.width, sy = height / image.height;
    for (const [l, t, r, b, d] of densities(image, first, all)) {
      const x0 = Math.round(l * sx), x1 = Math.round(r * sx), y0 = Math.round(t * sy), y1 = Math.round(b * sy);
      sums[y0 * w + x0] += d; sums[y0 * w + x1] -= d; sums[y1 * w + x0] -= d; sums[y1 * w + x1] += d;
    }
    for (let y = 0; y <= height; y++) for (let x = 1; x < w; x++) sums[y * w + x] += sums[y * w + x - 1];
    for (let y = 1; y <= height; y++) for (let x = 0; x < w; x++) sums[y * w + x] += sums[(y - 1) * w + x];
    return sums;
  }

  function heats(all, widest = 900) {
    let first = 0;
    return data.images.map((image) => {
      const width = Math.min(widest, Math.max(240, image.width)), height = Math.max(1, Math.round(width * image.height / image.width));
      const sums = heat(image, first, all, width, height);
      first += image.boxes.length / 4;
      let peak = 0;
      for (const v of sums) peak = Math.max(peak, Math.abs(v));
      return { sums, width, height, peak };
    });
  }

  function fixedPeak() {
    let peak = 0;
    const runs = state.against < 0 ? data.runs.map((_, i) => i) : [state.run];
    const before = state.run;
    for (const r of runs) {
      state.run = r;
      for (const t of [-1, ...data.runs[r].said]) if (shared(t) !== null)
        for (const h of heats(shown(data.runs[r], t), 200)) peak = Math.max(peak, h.peak);
    }
    state.run = before;
    return peak;
  }

  let fixed = { key: "", peak: 0 };
  function draw() {
    const run = data.runs[state.run], wanted = state.preview === null ? state.token : state.preview;
    const token = shared(wanted), signed = state.against >= 0;
    const found = heats(shown(run, token === null ? -1 : token));
    let peak = Math.max(...found.map((h) => h.peak));
    if (at("fixed").checked) {
      const key = [state.layer, state.head, signed ? `${state.run} ${state.against}` : ""].join();
      if (fixed.key !== key) fixed = { key, peak: fixedPeak() };
      peak = fixed.peak;
    }
    const table = signed ? colors.signed : colors.plain;
    found.forEach((h, i) => paint(at(`heat-${i}`), h, peak || 1, table, signed));
    legend(peak, table, signed);
    masses(massOf(run, token === null ? -1 : token));
    note(run, wanted, token);
    [...at("tokens").children].forEach((el, i) => el.classList.toggle("shown", i - 1 === wanted));
    document.body.dataset.token = wanted;
  }

  function paint(canvas, h, peak, table, signed) {
    canvas.width = h.width; canvas.height = h.height;
    const context = canvas.getContext("2d"), pixels = context.createImageData(h.width, h.height);
    for (let y = 0, p = 0; y < h.height; y++) for (let x = 0; x < h.width; x++, p += 4) {
      const v = h.sums[y * (h.width + 1) + x] / peak, root = Math.sign(v) * Math.sqrt(Math.min(1, Math.abs(v)));
      const index = 3 * Math.round(signed ? (root + 1) / 2 * 255 : Math.max(0, root) * 255);
      pixels.data[p] = table[index]; pixels.data[p + 1] = table[index + 1]; pixels.data[p + 2] = table[index + 2];
      pixels.data[p + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
  }

  function legend(peak, table, signed) {
    const context = at("scale").getContext("2d"), pixels = context.createImageData(256, 1);
    for (let i = 0; i < 256; i++) {
      for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = table[3 * i + c];
      pixels.data[4 * i + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
    at("low").textContent = signed ? `−${percent(peak)}` : "0";
    at("middle").textContent = signed ? "0" : percent(peak / 4);
    at("high").textContent = `${signed ? "+" : ""}${percent(peak)} a cell`;
  }

  function masses(mass) {
    at("mass").replaceChildren(...["image", "text", "sinks"].flatMap((name, i) => {
      const dt = document.createElement("dt"), bar = document.createElement("dd"), dd = document.createElement("dd");
      const fill = document.createElement("i");
      dt.textContent = name; dd.textContent = percent(mass[i]);
      bar.className = "bar"; fill.className = name; fill.style.width = `${100 * mass[i]}%`; bar.append(fill);
      return [dt, bar, dd];
    }));
  }

  function note(run, wanted, token) {
    const what = wanted < 0 ? "the whole answer" : `token ${wanted + 1} of ${run.tokens.length}, “${label(run.tokens[wanted])}”`;
    let text = `${run.name}: ${what}`;
    if (state.against >= 0) text = `${run.name} minus ${data.runs[state.against].name}: ${what}`;
    if (token === null) text += ". The answers differ before this token; the difference of the whole answers is shown.";
    else if (state.against >= 0 && token >= 0 && data.runs[state.against].tokens[token].id !== run.tokens[token].id)
      text += `, where ${data.runs[state.against].name} wrote “${label(data.runs[state.against].tokens[token])}”`;
    at("note").textContent = text;
  }

  function label(token) {
    if (token.stop) return "end";
    return token.text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "·";
  }

  function select(token, focus) {
    state.token = token;
    [...at("tokens").children].forEach((el, i) => {
      el.setAttribute("aria-selected", String(i - 1 === token));
      el.tabIndex = i - 1 === token ? 0 : -1;
      if (focus && i - 1 === token) el.focus();
    });
    draw();
  }

  function listTokens() {
    const run = data.runs[state.run];
    const options = [null, ...run.tokens].map((token, i) => {
      const el = document.createElement("div");
      el.setAttribute("role", "option");
      el.textContent = token ? label(token) : "whole answer";
      if (!token) el.className = "whole";
      el.addEventListener("pointerenter", (e) => { if (e.pointerType !== "touch") { state.preview = i - 1; draw(); } });
      el.addEventListener("pointerleave", () => { state.preview = null; draw(); });
      el.addEventListener("click", () => { state.preview = null; select(i - 1, true); });
      return el;
    });
    at("tokens").replaceChildren(...options);
    select(Math.min(state.token, run.tokens.length - 1));
  }

  function listHeads() {
    const run = data.runs[state.run], kept = state.layer < 0 ? run.heads.everywhere : run.heads.kept[state.layer];
    if (state.head >= 0 && !kept.includes(state.head)) state.head = -1;
    at("head").replaceChildren(new Option(`mean of ${run.heads.count}`, "-1"), ...[...kept].sort((a, b) => a - b).map((h) => new Option(`head ${h}`, h)));
    at("head").value = String(state.head);
  }

  function listRuns() {
    at("runs").replaceChildren(...data.runs.map((run, i) => {
      const el = document.createElement("button");
      el.type = "button"; el.setAttribute("role", "radio"); el.textContent = run.name;
      el.setAttribute("aria-checked", String(i === state.run)); el.tabIndex = i === state.run ? 0 : -1;
      el.addEventListener("click", () => chooseRun(i));
      return el;
    }));
    at("against").replaceChildren(new Option("attention", "-1"),
      ...data.runs.flatMap((run, i) => (i === state.run ? [] : [new Option(`difference to ${run.name}`, i)])));
    at("against").value = String(state.against);
    at("against").disabled = data.runs.length < 2;
  }

  function chooseRun(i, focus) {
    state.run = i;
    if (state.against === i) state.against = -1;
    listRuns(); listHeads(); listTokens();
    if (focus) at("runs").children[i].focus();
  }

  function chooseLayer(layer) {
    state.layer = Math.max(-1, Math.min(data.layers.count - 1, layer));
    at("layer").value = state.layer;
    const name = state.layer < 0 ? `mean of ${data.layers.name}` : `${state.layer} of 0–${data.layers.count - 1}`;
    at("layer-name").textContent = name; at("layer").setAttribute("aria-valuetext", name);
    listHeads(); draw();
  }

  at("question").textContent = data.question;
  at("pages").replaceChildren(...data.images.map((image, i) => {
    const figure = document.createElement("figure"), img = document.createElement("img"), canvas = document.createElement("canvas");
    img.src = image.source; img.width = image.width; img.height = image.height; img.style.height = "auto";
    img.alt = `Image ${i + 1} of the question; the colours on it show attention`;
    canvas.id = `heat-${i}`; canvas.setAttribute("aria-hidden", "true");
    figure.style.maxWidth = `max(320px, ${(82 * image.width / image.height).toFixed(1)}vh)`;
    figure.append(img, canvas);
    return figure;
  }));
  at("layer").min = -1; at("layer").max = data.layers.count - 1;
  at("layer").addEventListener("input", (e) => chooseLayer(Number(e.target.value)));
  at("head").addEventListener("change", (e) => { state.head = Number(e.target.value); draw(); });
  at("against").addEventListener("change", (e) => { state.against = Number(e.target.value); draw(); });
  at("fixed").addEventListener("change", draw);
  at("tokens").addEventListener("keydown", (e) => {
    const last = data.runs[state.run].tokens.length - 1;
    const to = { ArrowLeft: state.token - 1, ArrowRight: state.token + 1, Home: -1, End: last }[e.key];
    if (to !== undefined) { e.preventDefault(); state.preview = null; select(Math.max(-1, Math.min(last, to)), true); }
    if (e.key === "ArrowUp" || e.key === "ArrowDown") { e.preventDefault(); chooseLayer(state.layer + (e.key === "ArrowUp" ? 1 : -1)); }
  });
  at("runs").addEventListener("keydown", (e) => {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[e.key], count = data.runs.length;
    if (step) { e.preventDefault(); chooseRun((state.run + step + count) % count, true); }
  });
  listRuns();
  chooseRun(data.first);
  chooseLayer(-1);
})();
