// Numbers and sizes as people read them.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** Bytes in decimal units with three digits. */
export function bytes(count: number): string {
  let unit = 0;
  let value = count;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit ? value.toPrecision(3) : value} ${UNITS[unit]}`;
}

/** A value to about six digits, whole numbers whole. */
export function value(number: number | null | undefined): string {
  if (number == null) return "none";
  if (Number.isInteger(number)) return String(number);
  if (!Number.isFinite(number)) return String(number);
  const text = number.toPrecision(6);
  return text.includes("e") ? text : String(Number(text));
}

/** 1, 2 or 5 times a power of ten, the largest that is not above `limit`. */
export function roundLength(limit: number): number {
  const power = 10 ** Math.floor(Math.log10(limit));
  return [5, 2, 1].map((digit) => digit * power).find((length) => length <= limit * 1.0000001) ?? power;
}

/** A length in the unit that needs the fewest digits. */
export function length(amount: number, unit: string): string {
  if (unit === "mm" && amount < 0.999) return `${value(round(amount * 1000))} µm`;
  if (unit === "mm" && amount >= 10) return `${value(round(amount / 10))} cm`;
  if (unit === "m" && amount >= 1000) return `${value(round(amount / 1000))} km`;
  if (unit === "m" && amount < 0.99) return `${value(round(amount * 100))} cm`;
  return `${value(round(amount))} ${unit}`;
}

function round(number: number): number {
  return Number(number.toPrecision(6));
}

export function clamp(number: number, low: number, high: number): number {
  return Math.min(high, Math.max(low, number));
}
