"use strict";
// Every page is whole without its script; this one adds the theme switch.

const theme = document.getElementById("theme");

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  theme.setAttribute("aria-pressed", String(dark));
}

theme.setAttribute("aria-pressed", String(matchMedia("(prefers-color-scheme: dark)").matches));
theme.addEventListener("click", () => setTheme(theme.getAttribute("aria-pressed") !== "true"));
theme.hidden = false;
