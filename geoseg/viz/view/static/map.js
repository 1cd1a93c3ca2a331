"use strict";
// The map is drawn in the raster's own pixels: latitude is minus the row, longitude the
// column, so that nothing is resampled and a map without a CRS can be looked at too.

const TILE = 256;
const byId = (id) => document.getElementById(id);
const state = {
  opacity: 80, swipe: null, hidden: new Set(), layers: new Set(), bands: null, limits: null, side: null,
};
const LONG = 40; // of longer class tables only the classes seen so far are listed
const seen = new Set();
const versions = { classes: 0, image: 0, other: 0 };
let map, info, layers = {}, selected, applying = false;

async function getJSON(url, how) {
  const answer = await fetch(url, how);
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error || answer.statusText);
  return found;
}

const say = (text, bad = false) => {
  const notice = byId("notice");
  notice.textContent = text;
  notice.hidden = !text;
  notice.classList.toggle("bad", bad);
};

// Pixels that are not square on the ground are drawn as tall as they are; a tile stays
// whole pixels high.
const heightOfTile = (metres) =>
  metres ? Math.min(4 * TILE, Math.max(TILE / 4, Math.round((TILE * metres[0]) / metres[1]))) : TILE;

function crs(metres) {
  const aspect = heightOfTile(metres) / TILE;
  return L.extend({}, L.CRS.Simple, {
    transformation: new L.Transformation(1, 0, -aspect, 0),
    distance: (a, b) => {
      const [tall, wide] = metres || [1, 1];
      return Math.hypot((a.lat - b.lat) * tall, (a.lng - b.lng) * wide);
    },
  });
}

const Tiles = L.TileLayer.extend({
  // redraw() of Leaflet 1.9 would ask for tiles of half zooms.
  _clampZoom(zoom) { return L.TileLayer.prototype._clampZoom.call(this, Math.round(zoom)); },
  getTileUrl(at) {
    const z = -this._getZoomForUrl();
    const own = this.options.query ? this.options.query() : "";
    return `tiles/${this.options.name}/${z}/${at.x}/${at.y}.png?v=${versions[this.options.version]}${own}`;
  },
  // At half zooms Leaflet scales a whole level, and tiles end within pixels of the screen:
  // the background shines through as hairlines. So each tile is put on whole pixels, and
  // is as large as it takes to meet the next one; only while a zoom moves is all scaled.
  getEvents() {
    return { ...L.TileLayer.prototype.getEvents.call(this), zoomstart: this._scaleAll };
  },
  _setZoomTransform(level, center, zoom) {
    const scale = this._map.getZoomScale(zoom, level.zoom);
    level.scale = this._map._animatingZoom ? 1 : scale;
    if (level.scale === 1) {
      L.TileLayer.prototype._setZoomTransform.call(this, level, center, zoom);
    } else {
      const origin = level.origin.multiplyBy(scale).round();
      L.DomUtil.setTransform(level.el, origin.subtract(this._map._getNewPixelOrigin(center, zoom)), 1);
    }
    this._place(level);
  },
  _scaleAll() {
    for (const level of Object.values(this._levels)) {
      if (level.scale === 1) continue;
      level.scale = 1;
      L.TileLayer.prototype._setZoomTransform.call(this, level, this._map.getCenter(), this._map.getZoom());
      this._place(level);
      void level.el.offsetWidth; // or the animation would begin from the old scale
    }
  },
  _addTile(coords, container) {
    L.TileLayer.prototype._addTile.call(this, coords, container);
    const level = this._levels[coords.z];
    if (level.scale !== 1) this._placeTile(level, this._tiles[this._tileCoordsToKey(coords)]);
  },
  _place(level) {
    for (const tile of Object.values(this._tiles)) {
      if (tile.coords.z === level.zoom) this._placeTile(level, tile);
    }
  },
  _placeTile(level, { coords, el }) {
    const side = this.getTileSize(), origin = level.origin.multiplyBy(level.scale).round();
    const corner = (x, y) => L.point(x * side.x, y * side.y).multiplyBy(level.scale).round().subtract(origin);
    const first = corner(coords.x, coords.y), size = corner(coords.x + 1, coords.y + 1).subtract(first);
    L.DomUtil.setPosition(el, first);
    Object.assign(el.style, { width: `${size.x}px`, height: `${size.y}px` });
  },
});

function tiles(name, version, pane, extra) {
  return new Tiles("", {
    name, version, pane,
    tileSize: L.point(TILE, heightOfTile(info.metres)),
    minZoom: map.getMinZoom(), maxZoom: map.getMaxZoom(),
    maxNativeZoom: 0, minNativeZoom: -24,
    bounds: everything(), noWrap: true, keepBuffer: 1, ...extra,
  });
}

const everything = () => L.latLngBounds([-info.height, 0], [0, info.width]);

function makeMap() {
  const deepest = Math.ceil(Math.log2(Math.max(info.height, info.width) / TILE));
  map = L.map("map", {
    crs: crs(info.metres), minZoom: Math.min(0, -deepest - 1), maxZoom: 6,
    zoomSnap: 0.5, zoomDelta: 1, wheelPxPerZoomLevel: 90, zoomControl: false,
    attributionControl: false, maxBounds: everything().pad(0.6), fadeAnimation: false,
  });
  map.on("resize", resized);
  L.control.zoom({ position: "topleft" }).addTo(map);
  if (info.metres) L.control.scale({ imperial: false, position: "bottomleft", maxWidth: 160 }).addTo(map);
  makePanes(map);
  if (info.north !== null) {
    const north = byId("north");
    north.style.transform = `rotate(${info.north}deg)`;
    north.hidden = false;
  }
  byId("credit").textContent = info.basemap ? `Basemap: ${info.basemap}` : "";
}

function makePanes(where) {
  for (const [name, order] of [["base", 205], ["image", 210], ["mask", 220], ["lines", 410], ["edge", 690]]) {
    where.createPane(name).style.zIndex = order;
  }
}

// Which tiles of what the server has; polygons are drawn by the browser.
function tileLayer(name) {
  const hide = () => (state.hidden.size ? `&hide=${[...state.hidden].join(",")}` : "");
  if (name === "classes") return tiles("classes", "classes", "mask", { query: hide });
  if (name === "image") return tiles("image", "image", "image", { query: imageQuery });
  // It goes on where the map ends.
  if (name === "basemap") return tiles("basemap", "basemap", "base", { bounds: null });
  return tiles(name, name === "other" ? "other" : "classes", "mask");
}

function makeLayers() {
  for (const name of ["basemap", "image", "classes", "confidence", "objects"]) {
    if (name === "classes" || info[name]) layers[name] = tileLayer(name);
  }
  if (info.regions) {
    layers.regions = L.geoJSON(null, {
      pane: "lines", renderer: L.canvas({ pane: "lines" }), interactive: false,
      smoothFactor: 0, // what comes is as fine as the screen
      coordsToLatLng: ([x, y]) => L.latLng(-y, x),
      filter: (f) => !isHidden(f.properties),
      // Seen from far away, outlines would hide what they are around.
      style: () => ({ color: "#111", weight: map.getZoom() < -0.5 ? 0.5 : 1.2, fill: false }),
    });
  }
  for (const label of document.querySelectorAll("[data-layer]")) {
    label.hidden = !layers[label.dataset.layer];
  }
}

function show() {
  for (const [name, layer] of Object.entries(layers)) {
    const on = state.layers.has(name);
    const box = byId(`layer-${name}`);
    box.checked = on;
    if (on && !map.hasLayer(layer)) layer.addTo(map);
    if (!on && map.hasLayer(layer)) layer.remove();
  }
  byId("ramp").hidden = !state.layers.has("confidence");
  tellFar();
  byId("opacity").value = state.opacity;
  byId("opacity-value").textContent = `${state.opacity} %`;
  map.getPane("mask").style.opacity = state.opacity / 100;
  swipe();
  drawRegions();
}

function swipe() {
  const on = state.swipe !== null;
  const pane = map.getPane("mask");
  byId("swipe-on").checked = on;
  byId("swipe").hidden = !on;
  if (!byId("line")) {
    const line = Object.assign(document.createElement("div"), { id: "line", className: "swipe-line" });
    map.getPane("edge").append(line);
  }
  byId("line").hidden = !on;
  if (!on) { pane.style.clip = ""; return; }
  byId("swipe").value = Math.round(state.swipe * 1000);
  const size = map.getSize();
  // The thumb's middle runs from half a thumb to half a thumb before the end.
  const at = 22 + state.swipe * (size.x - 44);
  const a = map.containerPointToLayerPoint([at, 0]), b = map.containerPointToLayerPoint(size);
  Object.assign(byId("line").style, { left: `${a.x}px`, top: `${a.y}px`, height: `${size.y}px` });
  pane.style.clip = `rect(${a.y}px, ${b.x}px, ${b.y}px, ${a.x}px)`;
}

let asked = 0;
async function drawRegions() {
  const layer = layers.regions;
  if (!layer || !state.layers.has("regions")) { byId("regions-note").hidden = true; return; }
  const view = map.getBounds(), number = ++asked;
  const box = {
    left: view.getWest(), right: view.getEast(), top: -view.getNorth(), bottom: -view.getSouth(),
    pixel: 2 ** -map.getZoom() / (window.devicePixelRatio || 1),
  };
  try {
    const found = await getJSON(`regions.json?${new URLSearchParams(box)}`);
    if (number !== asked) return;
    layer.clearLayers();
    layer.addData(found);
    byId("regions-note").hidden = !found.more;
  } catch (error) { say(`Polygons cannot be read: ${error.message}`, true); }
}

const row = (name, value) => {
  const dt = document.createElement("dt"), dd = document.createElement("dd");
  dt.textContent = name; dd.textContent = value;
  return [dt, dd];
};

async function ask(latlng) {
  const at = new URLSearchParams({ row: -latlng.lat, column: latlng.lng });
  let found;
  try { found = await getJSON(`at.json?${at}`); } catch (error) { say(error.message, true); return; }
  if (selected) selected.remove();
  if (!found.inside) { map.closePopup(); return; }
  const box = document.createElement("div");
  const head = document.createElement("h2");
  if (found.color) {
    const swatch = document.createElement("i");
    swatch.className = "swatch"; swatch.style.background = found.color;
    head.append(swatch);
  }
  head.append(found.class ?? (found.value === null ? "nodata" : `value ${found.value}`));
  const list = document.createElement("dl");
  if (found.confidence !== undefined && found.confidence !== null)
    list.append(...row("confidence", `${(100 * found.confidence).toFixed(1)} %`));
  const p = found.place;
  if (p.lat !== null) list.append(...row("lat, lon", `${p.lat.toFixed(6)}, ${p.lon.toFixed(6)}`));
  list.append(...row("x, y", `${digits(p.x)}, ${digits(p.y)}`));
  list.append(...row("row, column", `${found.row}, ${found.column}`));
  if (found.object) list.append(...row("object", found.object.toLocaleString("en")));
  if (found.other) list.append(...row(info.other, found.other.class ?? found.other.value ?? "nodata"));
  box.append(head, list);
  if (found.region && state.layers.has("regions")) {
    const title = document.createElement("h3");
    title.textContent = "Polygon";
    const attributes = document.createElement("dl");
    for (const [name, value] of Object.entries(found.region.properties)) {
      const digits = { maximumFractionDigits: Math.abs(value) < 1000 ? 3 : 0 };
      const text = typeof value === "number" ? value.toLocaleString("en", digits) : value;
      attributes.append(...row(name, text ?? "–"));
    }
    box.append(title, attributes);
    selected = L.geoJSON(found.region, {
      pane: "lines", interactive: false, smoothFactor: 0, coordsToLatLng: ([x, y]) => L.latLng(-y, x),
      style: { color: "#ffea00", weight: 3, fill: false },
    }).addTo(map);
  }
  L.popup({ maxWidth: 300, autoPanPadding: [20, 20] }).setLatLng(latlng).setContent(box).openOn(map);
}

// Deep links: #z=-2&row=1200&column=800&opacity=70&swipe=0.5&hide=1,3&layers=image,classes
function remember() {
  if (applying) return;
  const centre = map.getCenter();
  const parts = { z: map.getZoom(), row: Math.round(-centre.lat), column: Math.round(centre.lng), opacity: state.opacity, layers: [...state.layers].join(",") };
  if (state.swipe !== null) parts.swipe = state.swipe.toFixed(3);
  if (state.hidden.size) parts.hide = [...state.hidden].join(",");
  if (state.side) parts.side = state.side;
  if (state.bands) parts.bands = state.bands.join(",");
  if (state.limits) Object.assign(parts, { low: state.limits.low.join(","), high: state.limits.high.join(",") });
  const text = Object.entries(parts).map(([k, v]) => `${k}=${v}`).join("&");
  history.replaceState(null, "", `#${text}`);
}

function apply() {
  applying = true;
  const link = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (link.has(name) && Number.isFinite(Number(link.get(name))) ? Number(link.get(name)) : null);
  const list = (name) => (link.get(name) || "").split(",").filter(Boolean);
  const opacity = number("opacity");
  state.opacity = opacity === null ? (info.image ? 80 : 100) : Math.min(100, Math.max(0, opacity));
  const swiped = number("swipe");
  state.swipe = swiped === null || !info.image ? null : Math.min(1, Math.max(0, swiped));
  state.hidden = new Set(list("hide").map(Number));
  const numbers = (name) => list(name).map(Number).filter(Number.isFinite);
  state.bands = isChoice(numbers("bands")) ? numbers("bands") : null;
  const limits = { low: numbers("low"), high: numbers("high") };
  state.limits = limits.low.length && limits.low.length === limits.high.length ? limits : null;
  state.side = besides().some(([name]) => name === link.get("side")) ? link.get("side") : null;
  if (!location.hash && info.other) state.side = "other";
  showBands();
  const usual = Object.keys(layers).filter((name) => name !== "confidence" && name !== "objects");
  state.layers = new Set(link.has("layers") ? list("layers").filter((n) => layers[n]) : usual);
  const [z, r, c] = [number("z"), number("row"), number("column")];
  if (z !== null && r !== null && c !== null) map.setView([-r, c], z, { animate: false });
  else showAll();
  showTwin();
  if (link.has("lat") && link.has("lon")) goTo(`${link.get("lat")}, ${link.get("lon")}`, z ?? 0);
  for (const box of byId("classes").querySelectorAll("input")) {
    box.checked = !state.hidden.has(Number(box.dataset.value));
  }
  applying = false;
  show();
  layers.classes.redraw();
  if (layers.image) layers.image.redraw();
}

// A coordinate of the map, as finely as its pixels are.
function digits(value) {
  const [a, b] = info.transform, pixel = Math.abs(a) + Math.abs(b);
  return value.toFixed(pixel < 0.01 ? 6 : pixel < 10 ? 1 : 0);
}

// Where the cursor is: x and y at once, latitude and longitude when it rests.
let resting;
function tellCursor({ latlng }) {
  const box = byId("cursor"), [a, b, c, d, e, f] = info.transform;
  const row = -latlng.lat, column = latlng.lng;
  const here = `${digits(a * column + b * row + c)}, ${digits(d * column + e * row + f)}`;
  box.textContent = here;
  box.hidden = false;
  clearTimeout(resting);
  resting = setTimeout(async () => {
    try {
      const at = await getJSON(`place.json?${new URLSearchParams({ row, column })}`);
      if (box.textContent === here && at.lat !== null)
        box.textContent = `${here}  ·  ${at.lat.toFixed(5)}°, ${at.lon.toFixed(5)}°`;
    } catch { /* the next move asks again */ }
  }, 120);
}

async function goTo(place, zoom = Math.max(map.getZoom(), 0)) {
  try {
    const found = await getJSON(`goto.json?${new URLSearchParams({ place })}`);
    map.setView([-found.row, found.column], zoom, { animate: false });
    say("");
  } catch (error) { say(error.message, true); }
}

function fullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.();
}

const keys = { i: "image", c: "classes", p: "regions", s: "confidence", o: "objects", b: "basemap" };

function pressed(event) {
  if (event.target.closest("input, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (keys[key] && layers[keys[key]]) byId(`layer-${keys[key]}`).click();
  else if (key === "f") fullScreen();
  else if (key === "d") byId("two").click();
  else if (key === "0") showAll();
  else if (key === "g") { byId("panel").open = true; byId("place").focus(); } else return;
  event.preventDefault();
}

// The keys that do something here.
function tellKeys() {
  const words = { regions: "polygons" };
  const shown = Object.entries(keys).filter(([, name]) => layers[name]).map(([key, name]) => `${key} ${words[name] ?? name}`);
  byId("keys").textContent = `Keys: arrows, + and −; ${shown.join(", ")}, d two maps, g go to, f full screen, 0 all of it.`;
}

function showAll() {
  const phone = matchMedia("(max-width: 640px)").matches;
  const free = phone ? [8, 60] : state.side ? [12, 12] : [288, 12]; // beside the panel
  map.fitBounds(everything(), { animate: false, paddingTopLeft: [12, 12], paddingBottomRight: free });
}

// Where all of the map was seen, all of it is seen in a window of another size.
function resized({ oldSize }) {
  const middle = map.project(map.getCenter()), half = oldSize.divideBy(2);
  const before = L.bounds(middle.subtract(half), middle.add(half));
  const whole = everything();
  if (before.contains(L.bounds(map.project(whole.getNorthWest()), map.project(whole.getSouthEast())))) showAll();
}

let told = "";
async function watch() {
  let wait = 2000;
  try {
    const now = await getJSON("state.json");
    for (const name of Object.keys(versions)) {
      if (!now[name] || now[name].version === versions[name]) continue;
      versions[name] = now[name].version;
      for (const each of allTiles()) if (each.options.version === name) each.redraw();
    }
    if (now.seen.some((value) => !seen.has(value))) {
      now.seen.forEach((value) => seen.add(value));
      listClasses();
    }
    const words = [];
    if (now.blocks) words.push(`Being written: ${now.blocks[0]} of ${now.blocks[1]} blocks done.`);
    else if (now.classes.share < 1) words.push(`Making overviews: ${Math.floor(100 * now.classes.share)} %`);
    if (now.other && now.other.share < 1) words.push(`Making overviews of ${info.other}: ${Math.floor(100 * now.other.share)} %`);
    if (now.image && now.image.share < 1) words.push(`Preparing the image: ${Math.floor(100 * now.image.share)} %`);
    const looked = map.hasLayer(layers.classes) && !layers.classes.isLoading();
    if (!words.length && !seen.size && looked) words.push("So far only nodata was seen.");
    if (now.problem) words.push(now.problem);
    const text = words.join(" · ");
    if (text !== told) say(text, Boolean(now.problem)); // what else was said stays
    told = text;
    if (!words.length && seen.size && info.classes.length <= LONG) wait = 10000;
  } catch {
    say(told = "The map is no longer served: start geoseg view again.", true);
    wait = 5000;
  }
  setTimeout(watch, wait);
}

async function begin() {
  info = await getJSON("map.json");
  document.title = `${info.title} · geoseg`;
  byId("title").textContent = info.title;
  if (info.north === null) byId("place").placeholder = byId("place").ariaLabel = "Go to x, y";
  byId("facts").textContent = `${info.width.toLocaleString("en")} × ${info.height.toLocaleString("en")} px · ${info.crs}`;
  if (matchMedia("(max-width: 640px)").matches) byId("panel").open = false;
  makeMap();
  makeLayers();
  makeLegend();
  makeBands();
  makeSides();
  tellKeys();
  apply();
  for (const name of Object.keys(layers)) {
    byId(`layer-${name}`).addEventListener("change", (event) => {
      state.layers[event.target.checked ? "add" : "delete"](name);
      show();
      remember();
    });
  }
  byId("opacity").addEventListener("input", (event) => { state.opacity = Number(event.target.value); show(); remember(); });
  byId("swipe-on").addEventListener("change", (event) => { state.swipe = event.target.checked ? 0.4 : null; show(); remember(); });
  byId("swipe").addEventListener("input", (event) => { state.swipe = event.target.value / 1000; swipe(); remember(); });
  map.on("move zoom resize", swipe);
  map.on("move zoomend", () => follow(map, twin));
  const pixels = () => map.getContainer().classList.toggle("close", map.getZoom() > 0);
  map.on("zoomend", pixels);
  map.on("zoomend", tellFar);
  pixels();
  map.on("moveend", () => { remember(); drawRegions(); });
  map.on("click", (event) => ask(event.latlng));
  map.on("popupclose", () => selected && selected.remove());
  map.on("mousemove", tellCursor);
  map.on("mousemove", ({ latlng }) => pointAt(twin, latlng));
  map.on("mouseout", () => { clearTimeout(resting); byId("cursor").hidden = true; });
  byId("goto").addEventListener("submit", (event) => { event.preventDefault(); goTo(byId("place").value); });
  byId("panel").addEventListener("toggle", () => [map, twin].forEach((each) => each?.invalidateSize()));
  byId("save").addEventListener("click", save);
  byId("full").addEventListener("click", fullScreen);
  document.addEventListener("keydown", pressed);
  window.addEventListener("hashchange", apply);
  remember();
  document.body.dataset.ready = "yes";
  watch();
}

begin().catch((error) => say(`The map cannot be shown: ${error.message}`, true));
