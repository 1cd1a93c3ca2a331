"use strict";
// Which bands the image shows, and what is black and what is white in them.

const COLOURS = [
  ["Natural colour", ["red", "green", "blue"]],
  ["False colour, NIR", ["nir", "red", "green"]],
  ["False colour, SWIR", ["swir16", "nir", "red"]],
];

function imageQuery() {
  const bands = state.bands ? `&bands=${state.bands.join(",")}` : "";
  return state.limits ? `${bands}&low=${state.limits.low.join(",")}&high=${state.limits.high.join(",")}` : bands;
}

// Bands are counted from 1, as GDAL and QGIS do.
const isChoice = (bands) =>
  info.image && (bands.length === 1 || bands.length === 3)
  && bands.every((b) => Number.isInteger(b) && b >= 1 && b <= info.image.bands.length);

function named(names) {
  const found = names.map((name) => 1 + info.image.bands.findIndex((b) => (b.common ?? b.name) === name));
  return found.every(Boolean) ? found : null;
}

function makeBands() {
  if (!info.image) return;
  const option = (text, value) => Object.assign(document.createElement("option"), { textContent: text, value });
  for (const select of bandSelects()) {
    select.append(...info.image.bands.map((b, i) => option(b.name, i + 1)));
    select.addEventListener("change", () => chooseBands(bandSelects().map((each) => Number(each.value))));
  }
  const known = COLOURS.map(([text, names]) => [text, named(names)]).filter(([, found]) => found);
  byId("preset").append(option("Own choice", ""), ...known.map(([text, found]) => option(text, found.join(","))));
  byId("preset").parentElement.hidden = !known.length;
  byId("preset").addEventListener("change", ({ target }) => target.value && chooseBands(target.value.split(",").map(Number)));
  byId("cut").addEventListener("change", () => stretch(Number(byId("cut").value)));
  byId("stretch").addEventListener("click", () => stretch(2, true));
}

const bandSelects = () => ["red", "green", "blue"].map((name) => byId(`band-${name}`));

function showBands() {
  if (!info.image) return;
  const shown = state.bands ?? info.image.shown.map((b) => b + 1);
  bandSelects().forEach((select, i) => { select.value = shown[i] ?? shown[0]; });
  const preset = byId("preset");
  preset.value = [...preset.options].some((o) => o.value === shown.join(",")) ? shown.join(",") : "";
  // Limits of what was seen, or of a link, are none of the list.
  if (!state.limits) byId("cut").value = "2";
}

async function chooseBands(chosen) {
  // The same band three times is that band in grey.
  state.bands = new Set(chosen).size === 1 ? [chosen[0]] : chosen;
  state.limits = null;
  showBands();
  imageChanged();
}

// So many percent at either end become black and white: of the image, or of what is seen.
async function stretch(cut, onlySeen = false) {
  const query = new URLSearchParams({ cut });
  if (state.bands) query.set("bands", state.bands.join(","));
  if (onlySeen) {
    const view = map.getBounds();
    const box = { left: view.getWest(), right: view.getEast(), top: -view.getNorth(), bottom: -view.getSouth() };
    for (const [name, value] of Object.entries(box)) query.set(name, Math.round(value));
  }
  try {
    state.limits = cut === 2 && !onlySeen ? null : await getJSON(`limits.json?${query}`);
    if (onlySeen) byId("cut").value = "";
    imageChanged();
  } catch (error) { say(error.message, true); }
}

function imageChanged() {
  for (const each of allTiles()) if (each.options.name === "image") each.redraw();
  remember();
}
