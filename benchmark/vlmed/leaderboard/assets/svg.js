// What the pages whose tables are made in the browser share. Texts only ever become text nodes.

const data = JSON.parse(document.getElementById("data")?.textContent ?? "null");
const status = document.getElementById("status");

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function draw(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const decimal = (value) => (value === null ? "–" : value.toFixed(3));
const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(3);
const span = (low, high) => (low === high ? `${low}` : `${low}–${high}`);

function quantity(count) {
  if (count >= 1e12) return count.toExponential(1).replace("e+", "e");
  for (const [size, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (count >= size) return `${Number((count / size).toPrecision(3))}\u00a0${letter}`;
  }
  return String(Number(count.toPrecision(3)));
}

// An axis of 180 pixels between round numbers around all values.
function axisOver(values) {
  const known = values.length ? values : [0, 1];
  const low = Math.min(...known), span = Math.max(Math.max(...known) - low, 0.01);
  const power = 10 ** Math.floor(Math.log10(span / 4));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((size) => span / size <= 4 + 1e-9);
  const first = Math.floor(low / step + 1e-9), last = Math.max(Math.ceil((low + span) / step - 1e-9), first + 1);
  const ticks = Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * step).toPrecision(8)));
  const x = (value) => Number((14 + (152 * (value - first * step)) / ((last - first) * step)).toFixed(1));
  return { ticks, x };
}

function drawAxis({ ticks, x }) {
  const parts = ticks.flatMap((tick) => [
    draw("path", { class: "line", d: `M${x(tick)} 18v8` }),
    draw("text", { x: x(tick), y: 13 }, String(tick).replace("-", "−")),
  ]);
  const line = draw("path", { class: "line", d: `M${x(ticks[0])} 22H${x(ticks.at(-1))}` });
  return draw("svg", { viewBox: "0 0 180 26", width: 180, height: 26, "aria-hidden": "true" }, line, ...parts);
}

function whisker(axis, low, high, value, label) {
  const parts = axis.ticks.map((tick) => draw("path", { class: tick === 0 && axis.ticks[0] < 0 ? "zero" : "grid", d: `M${axis.x(tick)} 0v22` }));
  const ends = `M${axis.x(low)} 7v8M${axis.x(high)} 7v8`;
  parts.push(draw("path", { class: "bar", d: `M${axis.x(low)} 11H${axis.x(high)}${ends}` }));
  if (value !== null) parts.push(draw("circle", { class: "dot", cx: axis.x(value), cy: 11, r: 4 }));
  const attributes = { viewBox: "0 0 180 22", width: 180, height: 22, role: "img", "aria-label": label };
  return draw("svg", attributes, draw("title", {}, label), ...parts);
}

// The part of the address after # holds the whole view, so that a copied link restores it.
const viewOfAddress = () => new URLSearchParams(location.hash.slice(1));

// An address may name a section of the page instead, until the reader chooses something.
const onAnchor = () => location.hash.length > 1 && !location.hash.includes("=");
const leaveAnchor = () => { if (onAnchor()) history.replaceState(null, "", location.pathname + location.search); };

function setAddress(values) {
  const kept = new URLSearchParams(Object.entries(values).filter(([, value]) => value !== "" && value !== false));
  history.replaceState(null, "", kept.size ? `#${kept}` : location.pathname + location.search);
}
