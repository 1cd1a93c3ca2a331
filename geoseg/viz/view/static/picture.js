"use strict";
// What is seen, as a picture: tiles where they lie, lines over them, the scale, north, the
// legend, and whose the basemap is; both maps where there are two.

const FONT = "13px system-ui, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif";

// Tiles that are on their way belong to it, and so do their classes; a server that does
// not answer is not waited for.
async function allDrawn() {
  for (let i = 0; i < 100 && allTiles().some((layer) => layer._map && layer.isLoading()); i++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  for (const value of (await getJSON("state.json")).seen) seen.add(value);
}

async function save() {
  try { await allDrawn(); } catch (error) { say(error.message, true); return; }
  const ratio = window.devicePixelRatio || 1, shown = twin ? [map, twin] : [map];
  const all = shown.map((each) => each.getContainer().getBoundingClientRect());
  const right = Math.max(...all.map((r) => r.right)), bottom = Math.max(...all.map((r) => r.bottom));
  const picture = Object.assign(document.createElement("canvas"), { width: right * ratio, height: bottom * ratio });
  const pen = picture.getContext("2d");
  pen.scale(ratio, ratio);
  pen.imageSmoothingEnabled = map.getZoom() <= 0;
  shown.forEach((each, i) => draw(pen, each, all[i]));
  drawScale(pen);
  drawNorth(pen);
  if (layers.basemap && (state.layers.has("basemap") || state.side === "basemap")) drawCredit(pen, right, bottom);
  if (state.layers.has("classes")) drawLegend(pen, all[0].right);
  const link = Object.assign(document.createElement("a"), { download: `${info.title}.png` });
  picture.toBlob((blob) => {
    link.href = URL.createObjectURL(blob);
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
}

function draw(pen, which, frame) {
  pen.save();
  pen.beginPath();
  pen.rect(frame.left, frame.top, frame.width, frame.height);
  pen.clip();
  pen.fillStyle = getComputedStyle(which.getContainer()).backgroundColor;
  pen.fillRect(frame.left, frame.top, frame.width, frame.height);
  for (const name of ["base", "image", "mask", "lines"]) {
    const pane = which.getPane(name);
    pen.save();
    pen.globalAlpha = pane.style.opacity === "" ? 1 : Number(pane.style.opacity);
    if (name === "mask" && which === map && state.swipe !== null) {
      const left = frame.left + 22 + state.swipe * (frame.width - 44);
      pen.beginPath();
      pen.rect(left, frame.top, frame.right - left, frame.height);
      pen.clip();
    }
    for (const part of pane.querySelectorAll("img.leaflet-tile, canvas")) {
      const at = part.getBoundingClientRect();
      if (part.tagName === "CANVAS" || part.complete) pen.drawImage(part, at.left, at.top, at.width, at.height);
    }
    pen.restore();
  }
  pen.restore();
}

function drawBox(pen, left, top, width, height) {
  pen.fillStyle = "rgba(255,255,255,.9)";
  pen.fillRect(left, top, width, height);
  pen.fillStyle = "#000";
  pen.textBaseline = "middle";
  pen.font = FONT;
}

function drawScale(pen) {
  const bar = document.querySelector(".leaflet-control-scale-line");
  if (!bar) return;
  const { left, bottom, width } = bar.getBoundingClientRect();
  drawBox(pen, left, bottom - 22, width, 22);
  pen.fillText(bar.textContent, left + 6, bottom - 11);
  pen.fillRect(left, bottom - 2, width, 2);
}

function drawNorth(pen) {
  if (info.north === null) return;
  const { left, top, width, height } = byId("north").getBoundingClientRect();
  pen.save();
  pen.translate(left + width / 2, top + height / 2);
  pen.rotate((info.north * Math.PI) / 180);
  drawBox(pen, -12, -17, 24, 34);
  pen.fill(new Path2D("M0-15 6 2 0-1-6 2Z"));
  pen.font = `700 11px ${FONT.slice(5)}`;
  pen.textAlign = "center";
  pen.fillText("N", 0, 10);
  pen.restore();
}

function drawCredit(pen, right, bottom) {
  const { textContent } = byId("credit");
  pen.font = FONT;
  const width = pen.measureText(textContent).width + 12;
  drawBox(pen, right - width, bottom - 20, width, 20);
  pen.fillText(textContent, right - width + 6, bottom - 10);
}

// The classes of the first map that were seen and are not hidden.
function drawLegend(pen, right) {
  const shown = info.classes.filter((c) => seen.has(c.value) && !state.hidden.has(c.value)).slice(0, LONG);
  if (!shown.length) return;
  pen.font = FONT;
  const width = 46 + Math.min(260, Math.max(...shown.map((c) => pen.measureText(c.name).width)));
  const left = right - width - 12;
  drawBox(pen, left, 12, width, 22 * shown.length + 12);
  shown.forEach((c, i) => {
    const middle = 29 + 22 * i;
    pen.fillStyle = c.color;
    pen.fillRect(left + 10, middle - 7, 15, 15);
    pen.strokeStyle = "rgba(0,0,0,.45)";
    pen.strokeRect(left + 10, middle - 7, 15, 15);
    pen.fillStyle = "#000";
    pen.fillText(c.name, left + 34, middle + 1, 260);
  });
}
