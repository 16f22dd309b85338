"use strict";
const make = (name, attributes = {}, text = "") => {
  const found = document.createElement(name);
  Object.entries(attributes).forEach(([key, value]) => found.setAttribute(key, value));
  found.textContent = text;
  return found;
};

const example = (schema) => {
  if (schema.type === "object") {
    const needed = schema.required && schema.required.length ? schema.required : Object.keys(schema.properties);
    return Object.fromEntries(needed.map((name) => [name, example(schema.properties[name])]));
  }
  if (schema.type === "array") return [example(schema.items)];
  return {integer: 1, number: 0.5, boolean: true}[schema.type] ?? "TEXT";
};

const curl = (path, verb, content) => {
  const url = new URL(path.slice(1), location.href).href;
  if (verb === "get") return `curl ${url}`;
  const body = JSON.stringify(example(content["application/json"].schema));
  return `curl ${url} -H 'content-type: application/json' -d '${body}'`;
};

const operation = (path, verb, told) => {
  const card = make("section", {class: "card operation"});
  const head = make("h2");
  head.append(make("span", {class: "verb"}, verb.toUpperCase()), ` ${path}`);
  card.append(head, make("p", {}, told.summary || ""));
  const content = told.requestBody && told.requestBody.content;
  card.append(make("pre", {}, curl(path, verb, content)));
  if (content) {
    card.append(make("p", {class: "soft"}, `Body: ${Object.keys(content).join(" or ")}`));
    card.append(make("pre", {}, JSON.stringify(content["application/json"].schema, null, 1)));
  }
  const list = make("table");
  Object.entries(told.responses).forEach(([status, response]) => {
    const line = make("tr");
    line.append(make("th", {}, status), make("td", {}, response.description));
    list.append(line);
  });
  card.append(list);
  return card;
};

const begin = async () => {
  const api = await (await fetch("openapi.json")).json();
  document.getElementById("title").textContent = api.info.title;
  document.getElementById("text").textContent = api.info.description;
  const found = Object.entries(api.paths).flatMap(([path, verbs]) =>
    Object.entries(verbs).map(([verb, told]) => operation(path, verb, told)));
  document.getElementById("operations").append(...found);
  const answer = api.components && api.components.schemas.Answer;
  if (answer) {
    const card = make("section", {class: "card"});
    card.append(make("h2", {}, "Answer"), make("pre", {}, JSON.stringify(answer, null, 1)));
    document.getElementById("operations").append(card);
  }
};
begin();
