"use strict";
// The page says what it says without this; here are the sorting, the filters, the sliders and the photographs after the first ones.
(() => {
  const $ = (id) => document.getElementById(id);

  // --- the table: sorted by a click on a head, filtered by what the columns of names hold ---

  const table = $("table");
  if (table) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    const names = Number(table.dataset.firstShare);
    const rows = [...body.rows]; // in the order of the report
    const cell = (row, column) => row.cells[column].textContent;
    const picks = new Map(); // column: its select
    let sorted = null; // [column, 1 or -1]

    const value = (row, column) => {
      if (column < names) return cell(row, column);
      const number = parseFloat(cell(row, column).replace("−", "-"));
      return Number.isNaN(number) ? null : number;
    };
    const order = ([column, direction]) => (one, other) => {
      const [a, b] = [value(one, column), value(other, column)];
      if (a === null || b === null) return (a === null) - (b === null); // what is not known is last, whichever way
      return direction * (column < names ? a.localeCompare(b, "en", { numeric: true }) : a - b);
    };
    const show = () => {
      const shown = (sorted ? [...rows].sort(order(sorted)) : rows).filter((row) => {
        row.hidden = [...picks].some(([column, pick]) => pick.value && pick.value !== cell(row, column));
        body.append(row);
        return !row.hidden;
      });
      // What repeats from the row above is said once, as long as the order is the report's.
      shown.forEach((row, place) => {
        let again = !sorted && place > 0;
        for (let column = 0; column < names; column++) {
          again = again && cell(row, column) === cell(shown[place - 1], column);
          row.cells[column].classList.toggle("again", again && column < names - 1);
        }
      });
      heads.forEach((head, column) => {
        if (sorted && sorted[0] === column) head.ariaSort = sorted[1] > 0 ? "ascending" : "descending";
        else head.removeAttribute("aria-sort");
      });
      $("table-count").textContent = shown.length + " of " + rows.length + " rows";
    };
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const first = column < names ? 1 : -1; // of numbers the largest first; a third click gives the report's order back
        if (!sorted || sorted[0] !== column) sorted = [column, first];
        else sorted = sorted[1] === first ? [column, -first] : null;
        show();
      });
      const values = [...new Set(rows.map((row) => cell(row, column)))];
      if (column >= names || values.length < 2) return;
      const label = document.createElement("label");
      const pick = document.createElement("select");
      pick.append(new Option("all", ""), ...values.map((one) => new Option(one, one)));
      label.append(head.textContent + " ", pick);
      $("table-filters").querySelector("button").before(label);
      picks.set(column, pick);
    });
    $("table-filters").addEventListener("change", show);
    $("table-filters").addEventListener("reset", () => setTimeout(show));
    $("table-filters").addEventListener("submit", (event) => event.preventDefault());
    $("table-filters").hidden = false;
    show();
  }

  // --- the sliders: one kind of purifier at one of its iterations, in all strips of a photograph alike ---

  const slide = (card, moved) => {
    for (const range of card.querySelectorAll('[data-family="' + moved.dataset.family + '"]')) {
      const step = Number(moved.value);
      const said = range.dataset.steps.split("|")[step];
      range.value = step;
      range.setAttribute("aria-valuetext", said);
      range.nextElementSibling.value = said;
      range.closest(".family").querySelectorAll(":scope > .cell").forEach((cell, at) => cell.classList.toggle("other", at !== step));
    }
  };
  $("cards").addEventListener("input", (event) => slide(event.target.closest(".card"), event.target));

  // --- the photographs: a page of them at a time, of those that the filter leaves ---

  const { page, photographs, files } = JSON.parse($("index").textContent);
  const form = $("filters");
  const pick = (name) => ($("pick-" + name) ? $("pick-" + name).value : "");
  const made = new Map([...document.querySelectorAll(".card")].map((card) => [Number(card.id.slice(1)), card]));
  const known = photographs.map(([truth, strips], place) => ({
    number: place + 1,
    truth: truth === null ? "" : String(truth),
    strips: strips.map(([attack, fates]) => ({ attack: String(attack), fates: fates.split(" ") })), // "" is the clean strip
  }));
  let found = known;
  let first = 0; // of those found, the first that is shown
  let turn = 0;

  /** Which strips of a photograph the filter leaves; null where it leaves none. */
  const choose = ({ truth, strips }) => {
    const [who, attack, fate] = ["who", "attack", "fate"].map(pick);
    if (pick("class") && pick("class") !== truth) return null;
    // A fate is such as "2b": provider 2, lost and came back.
    const fits = ({ fates }) => fates.some((token) => (!who || token.slice(0, -1) === who) && (!fate || token.endsWith(fate)));
    const clean = strips.filter((one) => !one.attack);
    const attacked = strips.filter((one) => one.attack && (!attack || one.attack === attack));
    // What a purifier changes on clean pictures is known of the clean strip, and has no attack.
    const left = fate === "c" ? attacked : attacked.filter(fits);
    const fit = fate === "c" || (!fate && !attack) ? clean.some(fits) || (!fate && left.length > 0) : left.length > 0;
    return fit ? strips.map((one) => !one.attack || left.includes(one)) : null;
  };

  const parse = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html; // the page's own, escaped when it was written
    return template.content.firstElementChild;
  };
  const waiting = new Map();
  globalThis.apibenchCard = (number, html) => waiting.get(number)(parse(html));
  const load = (number) =>
    new Promise((done) => {
      const missing = document.createElement("article");
      missing.className = "card";
      missing.tabIndex = -1;
      missing.textContent = files[number] + " is not beside this page, or cannot be read.";
      const script = document.createElement("script");
      waiting.set(number, done);
      script.onerror = () => done(missing);
      script.onload = () => script.remove();
      script.src = files[number];
      document.head.append(script);
    });
  /** The article of a photograph: in the page, in a block at its end, or in a file beside it. */
  const article = (number) => {
    const block = $("card-" + number);
    if (!made.has(number)) made.set(number, block ? parse(JSON.parse(block.textContent)) : load(number));
    return made.get(number);
  };

  const show = async () => {
    const mine = ++turn;
    const shown = found.slice(first, first + page);
    const cards = await Promise.all(shown.map(({ number }) => article(number)));
    if (mine !== turn) return; // another choice was made in the meantime
    cards.forEach((card, place) => {
      const left = choose(shown[place]) || [];
      card.querySelectorAll(".strip").forEach((strip, at) => (strip.hidden = !left[at]));
    });
    $("cards").replaceChildren(...cards);
    document.body.dataset.who = pick("who");
    $("count").textContent = found.length + " of " + known.length + " photographs";
    $("range").textContent = shown.length ? first + 1 + " to " + (first + shown.length) + " of " + found.length : "";
    $("pager").hidden = found.length <= page;
    $("previous").disabled = first === 0;
    $("next").disabled = first + page >= found.length;
    document.body.dataset.shown = mine; // for tests: what is asked for is there
  };
  const apply = () => {
    found = known.filter(choose);
    first = 0;
    return show();
  };
  const look = (card) => {
    card.scrollIntoView();
    card.focus({ preventScroll: true });
  };
  const turnTo = async (place) => {
    first = Math.max(0, place - (place % page));
    await show();
    const card = $("cards").children[place - first];
    if (card) look(card);
  };
  // #p123 is photograph 123.
  const follow = () => {
    const number = /^#p(\d+)$/.exec(location.hash);
    const place = number ? found.findIndex((one) => one.number === Number(number[1])) : -1;
    if (place >= 0) turnTo(place);
  };

  $("previous").addEventListener("click", () => turnTo(first - page));
  $("next").addEventListener("click", () => turnTo(first + page));
  form.addEventListener("change", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", follow);
  // j and k: the next photograph, the one before.
  addEventListener("keydown", (event) => {
    const step = { j: 1, k: -1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input")) return;
    const cards = [...$("cards").children];
    const at = cards.indexOf(document.activeElement.closest(".card"));
    const next = cards[at < 0 ? 0 : at + step];
    if (next) look(next);
    else if (step > 0 ? first + page < found.length : first > 0) turnTo(step > 0 ? first + page : first - 1);
  });
  form.hidden = false;
  document.body.classList.add("sliding");
  apply();
  follow();
})();
