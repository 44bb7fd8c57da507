// A few words for the document.

export const $ = (id) => document.getElementById(id);

/** Make an element with attributes, of which `on…` are listeners, and children. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made[key] = value;
    else if (value !== null && value !== false) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** Fill a list of terms and their descriptions. */
export function describe(list, facts) {
  list.replaceChildren(...facts.filter(([, text]) => text).flatMap(([term, text]) =>
    [element("dt", {}, term), element("dd", {}, text)]));
}

const GROUPED = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const FINE = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** Write a number with thin spaces between thousands, and decimals where it is small. */
export const number = (value) =>
  (Math.abs(value) < 100 ? FINE : GROUPED).format(value).replaceAll(",", "\u202f");
export const whole = (value) => GROUPED.format(value).replaceAll(",", "\u202f");
export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
