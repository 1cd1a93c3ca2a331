"use strict";
// The classes: which are shown, what they are called, in which colours.

// Polygons of geoseg have the value of their class, which keeps when it is renamed.
function isHidden({ class_id: value, class_name: name }) {
  const known = info.classes.find((c) => (value === undefined ? c.name === name : c.value === value));
  return known !== undefined && state.hidden.has(known.value);
}

function makeLegend() {
  fillLegend();
  byId("find").addEventListener("input", listClasses);
  byId("all").addEventListener("click", () => { state.hidden.clear(); classesChanged(); });
  byId("none").addEventListener("click", () => {
    state.hidden = new Set(info.classes.map((c) => c.value));
    classesChanged();
  });
}

function fillLegend() {
  byId("classes").replaceChildren(...info.classes.map(legendItem));
  listClasses();
}

function legendItem(c) {
  const item = document.createElement("li"), label = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !state.hidden.has(c.value) });
  box.dataset.value = c.value;
  const swatch = document.createElement("i");
  swatch.className = "swatch";
  swatch.style.background = c.color;
  const name = document.createElement("span");
  name.textContent = c.name;
  label.append(box, swatch, name);
  item.append(label);
  box.addEventListener("change", () => {
    state.hidden[box.checked ? "delete" : "add"](c.value);
    classesChanged();
  });
  if (info.named) {
    const edit = Object.assign(document.createElement("button"), { type: "button", className: "edit", textContent: "✎" });
    edit.ariaLabel = edit.title = `Name and colour of ${c.name}`;
    edit.addEventListener("click", () => item.replaceChildren(classForm(c, item)));
    item.append(edit);
  }
  return item;
}

// A class's name and colour, to be changed in the store itself.
function classForm(c, item) {
  const form = document.createElement("form");
  const color = Object.assign(document.createElement("input"), { type: "color", value: c.color.toLowerCase(), ariaLabel: "Colour" });
  const name = Object.assign(document.createElement("input"), { type: "text", value: c.name, ariaLabel: "Name", maxLength: 80, required: true });
  const save = Object.assign(document.createElement("button"), { textContent: "Save" });
  form.append(color, name, save);
  const back = () => {
    item.replaceWith(legendItem(info.classes.find((each) => each.value === c.value)));
    listClasses();
  };
  form.addEventListener("keydown", (event) => event.key === "Escape" && back());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const body = JSON.stringify({ value: c.value, name: name.value.trim(), color: color.value });
      info.classes = await getJSON("class.json", { method: "POST", body });
      fillLegend();
      say(`${info.title} calls it ${name.value.trim()} now. Polygons and exports that are made from now on follow.`);
      versions.classes += 1;
      for (const each of allTiles()) if (each.options.version === "classes") each.redraw();
    } catch (error) { say(error.message, true); }
  });
  setTimeout(() => name.select());
  return form;
}

function listClasses() {
  const wanted = byId("find").value.trim().toLowerCase();
  const all = info.classes.length <= LONG;
  const listed = info.classes.filter((c) => all || seen.has(c.value));
  byId("find").hidden = listed.length <= 12;
  const values = new Set(listed.map((c) => String(c.value)));
  for (const item of byId("classes").children) {
    const known = values.has(item.querySelector("input").dataset.value);
    item.hidden = !known || !item.textContent.toLowerCase().includes(wanted);
  }
}

function classesChanged() {
  for (const box of byId("classes").querySelectorAll("input")) {
    box.checked = !state.hidden.has(Number(box.dataset.value));
  }
  layers.classes.redraw();
  drawRegions();
  remember();
}

