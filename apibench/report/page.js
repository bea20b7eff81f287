
"use strict";
// The filter. The page says everything without it; the bar is shown only where this runs.
(() => {
  const pick = (name) => document.getElementById("pick-" + name);
  const form = document.getElementById("filters");
  const cards = [...document.querySelectorAll(".card")].map((card) => ({
    card,
    strips: [...card.querySelectorAll(".strip")].map((strip) => ({
      strip,
      attack: strip.dataset.attack, // "" is the clean strip
      fates: strip.dataset.fates.split(" "), // such as "2b": provider 2, lost and came back
    })),
  }));

  const apply = () => {
    const [who, attack, fate] = ["who", "attack", "fate"].map((name) => pick(name).value);
    document.body.dataset.who = who;
    const fits = ({ fates }) =>
      fates.some((token) => (!who || token.slice(0, -1) === who) && (!fate || token.endsWith(fate)));
    let shown = 0;
    for (const { card, strips } of cards) {
      const clean = strips.filter((one) => !one.attack);
      const attacked = strips.filter((one) => one.attack && (!attack || one.attack === attack));
      // What a purifier changes on clean pictures is known of the clean strip, and has no attack.
      const left = fate === "c" ? attacked : attacked.filter(fits);
      const found = fate === "c" || (!fate && !attack) ? clean.some(fits) || (!fate && left.length > 0) : left.length > 0;
      card.hidden = !found;
      shown += found;
      for (const one of strips) one.strip.hidden = Boolean(one.attack) && !left.includes(one);
    }
    document.getElementById("count").textContent = shown + " of " + cards.length + " photographs";
  };

  form.addEventListener("change", apply);
  form.addEventListener("reset", () => setTimeout(apply));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
})();
