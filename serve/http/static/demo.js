// The page's whole behaviour: a picture goes to POST /classify once for each model, one after the other, so that no
// model is timed while another computes. What the server says is only ever shown as text.
"use strict";

const TOP = 5;
const ROUNDS = 9; // requests whose median is shown, fewer where PATIENCE_MS is over before
const PATIENCE_MS = 1000;
const at = (id) => document.getElementById(id);
const page = { models: [], columns: new Map(), running: null, wanted: null, token: "" };

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const percent = (share) => `${(100 * share).toFixed(1)}\u202f%`;
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(2) : ms.toFixed(0)}\u202fms`;
const scaled = (number, units) => {
  const step = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(number) / 3)));
  return `${short.format(number / 1000 ** step)}${units[step] && "\u202f"}${units[step]}`;
};
const capital = (name) => (/^[a-z]+$/.test(name) ? name.charAt(0).toUpperCase() + name.slice(1) : name);
const list = (names) => new Intl.ListFormat("en").format(names);
const ordinal = (place) => ["first", "second", "third", "fourth", "fifth"][place];

class Refused extends Error {}

async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(page.token && { Authorization: `Bearer ${page.token}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is it still running?");
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  if (response.status === 401) at("gate").hidden = false;
  throw new Refused(said.error ?? `The server answered with status ${response.status}.`);
}

// ---- the models ----

function column(model, largest) {
  const article = at("model").content.firstElementChild.cloneNode(true);
  const put = (name, ...content) => article.querySelector(`.${name}`).append(...content);
  const against = (value, whole_) => {
    if (largest === null || model === largest) return "";
    const ratio = document.createElement("small");
    ratio.textContent = `${Math.round((100 * value) / whole_)}\u202f%`;
    ratio.setAttribute("aria-label", `${ratio.textContent} of ${largest.name}`);
    return ratio;
  };
  put("name", capital(model.name));
  put("arch", [model.arch, model.method].filter(Boolean).join(" \u00b7 "));
  put("took", "\u2013");
  put("bytes", scaled(model.file_bytes, ["B", "kB", "MB", "GB"]), against(model.file_bytes, largest?.file_bytes));
  put("parameters", scaled(model.num_parameters, ["", "k", "M", "G"]), against(model.num_parameters, largest?.num_parameters));
  put("macs", scaled(model.macs, ["", "k", "M", "G"]), against(model.macs, largest?.macs));
  if (model.metrics.top1 === undefined) article.querySelector(".top1").parentElement.remove();
  else put("top1", `${model.metrics.top1.toFixed(2)}\u202f%`);
  article.setAttribute("aria-label", model.name);
  return article;
}

function setModels(models) {
  const largest = models.length < 2 ? null : models.reduce((a, b) => (b.macs - a.macs || b.file_bytes - a.file_bytes) > 0 ? b : a);
  page.models = models;
  page.columns = new Map(models.map((model) => [model.name, column(model, largest)]));
  at("models").replaceChildren(...page.columns.values());
  at("subject").textContent = ` \u00b7 ${list(models.map((model) => model.name))}`;
  const sizes = [...new Set(models.map((model) => `${model.image_px} \u00d7 ${model.image_px}`))];
  at("shares").textContent = largest === null ? "" : `. Percentages beside sizes are shares of ${largest.name}\u2019s.`;
  at("crop").textContent = `Its middle square is seen at ${list(sizes)} pixels; the answer is one of ${models[0].num_labels} labels.`;
}

function show(answer, truth) {
  const article = page.columns.get(answer.model);
  const label = answer.top[0].label;
  const big = article.querySelector(".answer");
  big.textContent = label;
  big.classList.toggle("long", label.length > 6);
  const bars = article.querySelector(".bars");
  answer.top.forEach(({ label, probability }, place) => {
    const bar = bars.children[place] ?? bars.appendChild(at("bar").content.firstElementChild.cloneNode(true));
    bar.querySelector(".label").textContent = label;
    if (label === truth) {
      const mark = document.createElement("em");
      mark.textContent = " \u2013 true label";
      bar.querySelector(".label").append(mark);
    }
    bar.querySelector(".share").textContent = percent(probability);
    bar.querySelector(".fill").style.width = `${100 * probability}%`;
  });
}

// ---- what it comes to, in words ----

function verdict(answers, truth) {
  const said = new Map();
  for (const { model, top } of answers) said.set(top[0].label, [...(said.get(top[0].label) ?? []), model]);
  const best = (label) => Object.assign(document.createElement("strong"), { textContent: label });
  const [first] = said.keys();
  let words;
  if (answers.length === 1) words = [best(first), "."];
  else if (said.size === 1) words = [`${list(answers.map(({ model }, place) => (place ? model : capital(model))))} agree: `, best(first), "."];
  else {
    words = [...said].flatMap(([label, names], place) => [
      `${place ? ", " : ""}${list(names.map((name, i) => (place + i ? name : capital(name))))} ${names.length > 1 ? "say" : "says"} `, best(label),
    ]).concat(".");
  }
  const heading = at("verdict").querySelector("h1");
  heading.replaceChildren(...words);
  heading.classList.toggle("long", heading.textContent.length > 60);
  at("note").textContent = [said.size > 1 ? disagreement(answers) : "", truthfulness(said, answers, truth)].filter(Boolean).join(" ");
}

function disagreement(answers) {
  if (answers.length !== 2) return "They disagree.";
  const [one, other] = answers;
  const label = one.top[0].label;
  const place = other.top.findIndex((answer) => answer.label === label);
  if (place < 0) return `They disagree: ${label} is none of ${other.model}\u2019s first ${other.top.length} choices.`;
  return `They disagree: ${label} is ${other.model}\u2019s ${ordinal(place)} choice, at ${percent(other.top[place].probability)}.`;
}

function truthfulness(said, answers, truth) {
  if (truth === null) return "";
  const right = said.get(truth) ?? [];
  if (right.length === answers.length) return `The data set says ${truth} too.`;
  if (right.length) return `The data set says ${truth}: ${list(right)} ${right.length > 1 ? "are" : "is"} right.`;
  return `The data set says ${truth}: ${answers.length > 2 ? "all are" : answers.length > 1 ? "both are" : "this is"} wrong.`;
}

// ---- a picture ----

async function everybody(picture, signal) {
  const answers = [];
  for (const { name } of page.models) {
    const response = await ask(`/classify?top=${TOP}&model=${encodeURIComponent(name)}`, {
      method: "POST", body: picture, signal, headers: { "Content-Type": "application/octet-stream" },
    });
    answers.push(await response.json());
  }
  return answers;
}

function clock(rounds) {
  const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  for (const [place, { model }] of rounds[0].entries()) {
    const took = median(rounds.map((answers) => answers[place].milliseconds.infer));
    page.columns.get(model).querySelector(".took").textContent = milliseconds(took);
  }
  const decode = median(rounds.flat().map(({ milliseconds }) => milliseconds.decode));
  at("rounds").textContent = rounds.length === 1 ? "One request" : `The median of ${rounds.length} requests`;
  at("decode").textContent = milliseconds(decode);
  at("times").hidden = false;
}

async function classify(picture, truth) {
  page.running?.abort();
  const running = (page.running = new AbortController());
  at("error").textContent = "";
  at("models").setAttribute("aria-busy", "true");
  at("models").classList.add("waiting");
  try {
    const first = await everybody(picture, running.signal);
    for (const answer of first) show(answer, truth);
    verdict(first, truth);
    rest();
    const rounds = [first];
    clock(rounds);
    const started = performance.now();
    while (rounds.length < ROUNDS && performance.now() - started < PATIENCE_MS) {
      rounds.push(await everybody(picture, running.signal));
      clock(rounds);
    }
  } catch (error) {
    if (running.signal.aborted) return; // another picture has taken its place
    rest();
    fail(error);
  }
}

function rest() {
  at("models").setAttribute("aria-busy", "false");
  at("models").classList.remove("waiting");
}

function fail(error) {
  if (!(error instanceof Refused)) throw error;
  at("verdict").querySelector("h1").textContent = "No answer.";
  at("note").textContent = "";
  at("times").hidden = true;
  for (const article of page.columns.values()) {
    article.querySelector(".answer").textContent = "";
    article.querySelector(".bars").replaceChildren();
    article.querySelector(".took").textContent = "\u2013";
  }
  at("error").textContent = error.message;
}

function preview(picture, alt) {
  const image = at("preview");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(picture);
  image.alt = alt;
  image.hidden = false;
  at("drop").classList.add("full");
  at("drop").querySelector("strong").textContent = "Choose another";
}

at("preview").addEventListener("load", ({ target }) => {
  target.classList.toggle("tiny", 2 * target.naturalWidth < target.clientWidth);
});
at("preview").addEventListener("error", ({ target }) => {
  target.hidden = true;
  at("drop").classList.remove("full");
}); // the server says what is wrong

function take(file) {
  page.wanted = file;
  for (const radio of at("tray").querySelectorAll("input:checked")) radio.checked = false;
  preview(file, file.name || "The pasted picture");
  if (page.models.length) classify(file, null);
}

at("file").addEventListener("change", ({ target }) => {
  if (target.files.length) take(target.files[0]);
  target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData.files.length) take(clipboardData.files[0]);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  at("drop").classList.add("over");
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (relatedTarget === null) at("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  else at("error").textContent = "Drop the picture's file; links are not followed.";
});

// ---- samples: radio buttons, so that arrow keys walk through them ----

function setSamples(samples) {
  at("samples").hidden = samples.length === 0;
  at("tray").replaceChildren(...samples.map(({ url, label }, index) => {
    const choice = document.createElement("label");
    const radio = Object.assign(document.createElement("input"), { type: "radio", name: "sample" });
    radio.setAttribute("aria-label", `Sample ${index + 1}, ${label}`);
    const image = Object.assign(new Image(), { alt: "", title: label });
    const arrived = ask(url).then((response) => response.blob());
    arrived.then((blob) => { image.src = URL.createObjectURL(blob); }, fail);
    radio.addEventListener("change", async () => {
      page.wanted = radio;
      const blob = await arrived;
      if (page.wanted !== radio) return; // something else was chosen meanwhile
      preview(blob, `Sample ${index + 1}`);
      classify(blob, label);
    });
    choice.append(radio, image);
    return choice;
  }));
}

async function start() {
  try {
    setModels((await (await ask("/models")).json()).models);
    setSamples((await (await ask("/samples")).json()).samples);
    if (page.wanted !== null) classify(page.wanted, null); // a file, chosen before the models were known
    else at("tray").querySelector("input")?.click(); // an answer is the best explanation
  } catch (error) {
    fail(error);
  }
}

at("gate").addEventListener("submit", (event) => {
  event.preventDefault();
  page.token = at("token").value;
  at("gate").hidden = true;
  at("error").textContent = "";
  start();
});

start();
