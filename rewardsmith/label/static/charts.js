// Charts as SVG, each with a table of the same numbers.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 560;
const HEIGHT = 220;
const AT = { left: 48, right: 12, top: 12, bottom: 28 };

export function element(name, properties = {}, ...children) {
  const node = document.createElement(name);
  Object.entries(properties).forEach(([key, value]) => node.setAttribute(key, value));
  node.append(...children);
  return node;
}

function svg(name, properties = {}, ...children) {
  const node = document.createElementNS(SVG, name);
  Object.entries(properties).forEach(([key, value]) => node.setAttribute(key, value));
  node.append(...children);
  return node;
}

export function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toFixed(1)} M`;
  if (size >= 1e4) return `${+(value / 1e3).toFixed(1)} k`;
  return String(+value.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0));
}

export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`);

function steps(low, high, number) {
  const span = high - low || 1;
  const power = 10 ** Math.floor(Math.log10(span / number));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => span / one <= number);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(value);
  return found;
}

function frame(title, x, y, about) {
  const across = (value) => AT.left + ((value - x.low) / (x.high - x.low || 1)) * (WIDTH - AT.left - AT.right);
  const up = (value) => HEIGHT - AT.bottom - ((value - y.low) / (y.high - y.low || 1)) * (HEIGHT - AT.top - AT.bottom);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${about}` });
  steps(y.low, y.high, 5).forEach((value) => {
    picture.append(
      svg("line", { class: "grid", x1: AT.left, x2: WIDTH - AT.right, y1: up(value), y2: up(value) }),
      svg("text", { x: AT.left - 8, y: up(value) + 4, "text-anchor": "end" }, y.format(value)),
    );
  });
  const marks = x.marks ?? steps(x.low, x.high, 5);
  marks.forEach((value) => {
    picture.append(svg("text", { x: across(value), y: HEIGHT - 8, "text-anchor": "middle" }, x.format(value)));
  });
  return { picture, across, up };
}

function figure(title, about, picture, table) {
  const figcaption = element("figcaption", {}, title);
  const node = element("figure", { class: "chart" }, figcaption, element("p", { class: "about" }, about));
  const rows = element("div", { tabindex: "0", role: "region", "aria-label": `${title}, as a table` }, table);
  node.append(picture, element("details", {}, element("summary", {}, "As a table"), rows));
  return node;
}

export function table(heads, rows) {
  const head = heads.map((text) => element("th", { scope: "col" }, text));
  const body = rows.map(([first, ...rest]) =>
    element("tr", {}, element("th", { scope: "row" }, first), ...rest.map((text) => element("td", {}, text))),
  );
  return element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...body));
}

export function empty(title, about, why) {
  const figcaption = element("figcaption", {}, title);
  const note = element("p", { class: "nothing" }, why);
  return element("figure", { class: "chart" }, figcaption, element("p", { class: "about" }, about), note);
}

// points: [{x, y}], bars `width` wide from x on. x and y: {format}; heads: of the table.
export function bars(title, about, points, width, x, y, heads) {
  const high = Math.max(...points.map((point) => point.y), 1);
  const range = { low: points[0].x, high: points.at(-1).x + width, format: x.format };
  const marks = points.filter((_, index) => index % Math.ceil(points.length / 5) === 0).map((point) => point.x + width / 2);
  range.marks = marks;
  range.format = (value) => x.format(value - width / 2);
  const { picture, across, up } = frame(title, range, { low: 0, high, format: y.format }, about);
  points.forEach((point) => {
    const left = across(point.x) + 1;
    const bar = { class: "bar", x: left, width: Math.max(1, across(point.x + width) - left - 1), rx: 2 };
    const node = svg("rect", { ...bar, y: up(point.y), height: up(0) - up(point.y) });
    node.append(svg("title", {}, `${x.format(point.x)}: ${y.format(point.y)}`));
    picture.append(node);
  });
  return figure(title, about, picture, table(heads, points.map((point) => [x.format(point.x), y.format(point.y)])));
}

// points: [{x, y, spread, about}]: steps and values, `spread` on either side; y: {low, high, format}.
export function line(title, about, points, y, heads) {
  const ends = points.flatMap((point) => [point.y - (point.spread ?? 0), point.y + (point.spread ?? 0)]);
  const range = { low: y.low ?? Math.min(...ends), high: y.high ?? Math.max(...ends), format: y.format };
  const xs = points.map((point) => point.x);
  const { picture, across, up } = frame(title, { low: Math.min(...xs), high: Math.max(...xs), format: short }, range, about);
  const at = (point, by) => `${across(point.x).toFixed(1)} ${up(point.y + by * (point.spread ?? 0)).toFixed(1)}`;
  const path = (some, by) => some.map((point) => at(point, by)).join(" L");
  if (points.some((point) => point.spread)) {
    picture.append(svg("path", { class: "band", d: `M${path(points, 1)} L${path([...points].reverse(), -1)} Z` }));
  }
  picture.append(svg("path", { class: "line", d: `M${path(points, 0)}` }));
  points.forEach((point) => {
    const dot = svg("circle", { class: "dot", cx: across(point.x), cy: up(point.y), r: points.length > 60 ? 1.5 : 3 });
    dot.append(svg("title", {}, `Step ${short(point.x)}: ${y.format(point.y)}`));
    picture.append(dot);
  });
  const rows = points.map((point) => [short(point.x), y.format(point.y), point.about]);
  return figure(title, about, picture, table(heads, rows));
}
