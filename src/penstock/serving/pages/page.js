"use strict";
const $ = (id) => document.getElementById(id);
const COLOURS = 8;

const make = (name, attributes = {}, text = "") => {
  const svg = ["circle", "title"].includes(name);
  const found = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  Object.entries(attributes).forEach(([key, value]) => found.setAttribute(key, value));
  found.textContent = text;
  return found;
};

const table = (head, rows) => {
  const found = make("table");
  const line = (cells, tag) => {
    const row = make("tr");
    row.append(...cells.map((cell) => make(tag, {}, cell)));
    return row;
  };
  if (head.length) found.append(line(head, "th"));
  found.append(...rows.map((cells) => line(cells, "td")));
  return found;
};

const shortened = (value) => {
  const text = typeof value === "string" ? value : JSON.stringify(value, (_, inner) =>
    typeof inner === "number" && !Number.isInteger(inner) ? Number(inner.toPrecision(5)) : inner);
  const count = Array.isArray(value) ? ` (${value.length})` : "";
  return text.length > 300 ? `${text.slice(0, 300)} …${count}` : text;
};

const asked = async (path, body) => {
  const token = $("token").value.trim();
  const headers = {"content-type": "application/json", ...(token && {authorization: `Bearer ${token}`})};
  const answer = await fetch(path, body ? {method: "POST", headers, body: JSON.stringify(body)} : {headers});
  const found = await answer.json();
  if (found.detail) throw new Error(`${answer.status}: ${found.detail}`);
  return found;
};

// One text column: a row, or the records of a FASTA text. More columns: a JSON object, or a list of them.
const rowsOf = (text, schema) => {
  const column = onlyText(schema);
  if (!column) return [].concat(JSON.parse(text));
  if (!text.trimStart().startsWith(">")) return [{[column]: text.trim()}];
  const records = text.trimStart().slice(1).split(/\n>/);
  return records.map((record) => ({[column]: record.split("\n").slice(1).join("").trim()}));
};

const onlyText = (schema) => {
  const [column] = schema.needed;
  return schema.needed.length === 1 && schema.request[column].endsWith("string") ? column : "";
};

const describe = (schema) => {
  $("steps").textContent = schema.steps.join(" → ");
  const column = onlyText(schema);
  $("what").textContent = column || "Rows as JSON";
  const columns = Object.entries(schema.request).map(([name, kind]) => `${name}: ${kind}`).join(", ");
  $("hint").textContent = column ? `One ${column}, or several as FASTA.` : `An object with ${columns}; needed: ${schema.needed.join(", ")}.`;
};

const showAnswer = (found) => {
  const cards = found.rows.map((row, at) => {
    const card = make("div", {class: "card row"});
    card.append(make("h2", {}, `Row ${found.positions[at] + 1}`));
    card.append(table([], Object.entries(row).map(([name, value]) => [name, shortened(value)])));
    return card;
  });
  const errors = found.errors.map((one) => make("p", {class: "error"}, `Row ${one.row + 1} was refused by ${one.step}: ${one.reason}`));
  $("answer").replaceChildren(...errors, ...cards);
};

const drawMap = (points, placed, positions) => {
  const [xs, ys] = [0, 1].map((axis) => points.places.map((place) => place[axis]));
  const scaled = (value, all, low, high) => {
    const [least, most] = [Math.min(...all), Math.max(...all)];
    return low + (high - low) * (most > least ? (value - least) / (most - least) : 0.5);
  };
  const at = ([x, y]) => ({cx: scaled(x, xs, 20, 980), cy: scaled(y, ys, 600, 20)});
  const groups = [...new Set(points.groups)].sort();
  const near = new Set(placed.flatMap((one) => one.neighbours.map((neighbour) => neighbour.point)));
  const circles = points.places.map((place, index) => {
    const colour = groups.length ? `c${groups.indexOf(points.groups[index]) % COLOURS}` : "";
    const circle = make("circle", {class: `point ${colour} ${near.has(index) ? "near" : ""}`, r: near.has(index) ? 8 : 5, ...at(place)});
    circle.append(make("title", {}, [points.names[index], points.groups[index]].filter(Boolean).join(" · ")));
    return circle;
  });
  $("plane").replaceChildren(...circles, ...placed.map((one) => make("circle", {class: "new", r: 13, ...at(one.place)})));
  $("method").textContent = `${points.names.length} rows of the dataset, ${points.method}. The ring is the new row, at the mean of its neighbours.`;
  const tables = placed.map((one, index) => {
    const part = make("div");
    part.append(make("h2", {}, `Nearest to row ${positions[index] + 1}`));
    const lines = one.neighbours.map((n) => [n.name, points.groups[n.point] || "", n.similarity.toFixed(4)]);
    part.append(table(["name", "group", "similarity"], lines));
    return part;
  });
  $("neighbours").replaceChildren(...tables);
  $("map").hidden = !placed.length;
};

let schema, points, sent = 0;

const send = async () => {
  const turn = ++sent;  // an answer that is overtaken by a later question's is not shown
  $("state").className = "";
  $("state").textContent = "…";
  try {
    schema = schema || await asked("schema");
    describe(schema);
    const started = performance.now();
    const hasMap = schema.map;
    const found = await asked(hasMap ? "neighbours" : "rows", {rows: rowsOf($("text").value, schema)});
    if (turn !== sent) return;
    $("state").textContent = `Answered in ${Math.round(performance.now() - started)} ms.`;
    showAnswer(found);
    if (hasMap) {
      points = points || await asked("map");
      if (turn === sent) drawMap(points, found.map, found.positions);
    }
  } catch (error) {
    if (turn !== sent) return;
    $("state").className = "error";
    $("state").textContent = error.message;
    $("answer").replaceChildren();
    $("map").hidden = true;
  }
};

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});

const begin = async () => {
  $("title").textContent = (await (await fetch("openapi.json")).json()).info.title;
  try {
    schema = await asked("schema");
    describe(schema);
  } catch (error) {
    $("state").textContent = error.message;
    $("state").className = "error";
  }
  if (location.hash.length > 1) {  // a link that carries its question
    $("text").value = decodeURIComponent(location.hash.slice(1));
    await send();
  }
};
begin();
