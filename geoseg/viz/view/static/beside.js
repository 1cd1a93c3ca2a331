"use strict";
// A second map beside the first, which shows something else of the same place.

let twin = null, twinTiles = [], following = false;

const besides = () => [
  ["other", info.other], ["image", info.image && "Image"], ["classes", "Classes"],
  ["confidence", info.confidence && "Confidence"], ["objects", info.objects && "Objects"],
  ["basemap", info.basemap && "Basemap"],
].filter(([, text]) => text);

const allTiles = () => [...Object.values(layers).filter((layer) => layer instanceof Tiles), ...twinTiles];

function makeSides() {
  const option = ([value, textContent]) => Object.assign(document.createElement("option"), { value, textContent });
  byId("side").append(...besides().map(option));
  const changed = () => {
    state.side = byId("two").checked ? byId("side").value : null;
    showTwin();
    swipe();
    remember();
  };
  byId("two").addEventListener("change", changed);
  byId("side").addEventListener("change", changed);
}

function showTwin() {
  byId("two").checked = Boolean(state.side);
  byId("side").hidden = !state.side;
  showSideLegend();
  document.body.classList.toggle("two", Boolean(state.side));
  map.invalidateSize();
  if (!state.side) {
    if (twin) twin.remove();
    [twin, twinTiles] = [null, []];
    return;
  }
  byId("side").value = state.side;
  twin ??= makeTwin();
  twinTiles.forEach((layer) => layer.remove());
  twinTiles = [state.side];
  if (info.image && state.side !== "image" && state.side !== "basemap") twinTiles.unshift("image");
  twinTiles = twinTiles.map((name) => tileLayer(name).addTo(twin));
  twin.invalidateSize();
  follow(map, twin);
}

// What the colours of the other class map mean.
function showSideLegend() {
  const legend = byId("side-legend");
  legend.hidden = state.side !== "other";
  if (legend.hidden || byId("side-classes").children.length) return;
  byId("side-title").textContent = `Classes of ${info.other}`;
  byId("side-classes").append(...info.other_classes.slice(0, LONG).map(({ name, color }) => {
    const item = document.createElement("li"), swatch = document.createElement("i");
    swatch.className = "swatch";
    swatch.style.background = color;
    item.append(swatch, name);
    return item;
  }));
  const more = info.other_classes.length - LONG;
  if (more > 0) byId("side-classes").append(Object.assign(document.createElement("li"), { textContent: `and ${more} more; click the map to see which` }));
}

function makeTwin() {
  const made = L.map("twin", {
    crs: map.options.crs, minZoom: map.getMinZoom(), maxZoom: map.getMaxZoom(), zoomSnap: 0.5, zoomDelta: 1,
    wheelPxPerZoomLevel: 90, zoomControl: false, attributionControl: false, fadeAnimation: false,
    center: map.getCenter(), zoom: map.getZoom(),
  });
  makePanes(made);
  made.on("move zoomend", () => follow(made, map));
  made.on("click", ({ latlng }) => ask(latlng));
  made.on("mousemove", (event) => { tellCursor(event); pointAt(map, event.latlng); });
  return made;
}

function follow(leader, other) {
  if (following || !other || leader._animatingZoom) return;
  following = true;
  other.setView(leader.getCenter(), leader.getZoom(), { animate: false });
  twin.getContainer().classList.toggle("close", map.getZoom() > 0);
  twin.getPane("mask").style.opacity = state.opacity / 100;
  following = false;
}

// Where the cursor is in one map, a mark is in the other.
function pointAt(which, latlng) {
  const mark = byId("mark");
  mark.hidden = !which || !twin;
  if (mark.hidden) return;
  const at = which.latLngToContainerPoint(latlng), frame = which.getContainer().getBoundingClientRect();
  Object.assign(mark.style, { left: `${frame.left + at.x}px`, top: `${frame.top + at.y}px` });
}

// Objects are drawn from close enough; the note says so.
function tellFar() {
  const wanted = state.layers.has("objects") || state.side === "objects";
  byId("objects-note").hidden = !(wanted && map.getZoom() < -3.5);
}
