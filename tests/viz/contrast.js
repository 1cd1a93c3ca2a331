// Returns text whose contrast to what is behind it is below 4.5 (WCAG 2.2, 1.4.3).
function rgb(s) { const m = s.match(/[\d.]+/g).map(Number);
  return m.length > 3 ? m : [...m, 1]; }
function lum(c) { const f = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  return .2126 * f(c[0]) + .7152 * f(c[1]) + .0722 * f(c[2]); }
function behind(e) { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
  if (c[3] > .8) return c; } return [255, 255, 255, 1]; }
const poor = [];
for (const e of document.body.querySelectorAll('*')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || !e.getClientRects().length) continue;
  const s = getComputedStyle(e), svg = e instanceof SVGElement;
  const a = lum(rgb(svg ? s.fill : s.color)), b = lum(behind(e));
  const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (ratio < 4.5) poor.push([e.tagName, e.textContent.trim().slice(0, 40), ratio]);
}
return poor;
