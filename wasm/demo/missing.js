// What this browser, or the server of this page, does not offer: in words for people who only want to use it.

const ISOLATION = 'Only one core of your processor is used, because the server of this page does not allow more. Everything works, but '
  + 'slower. (If it is your server: “Threads” in the package’s README names the two headers to send.)';
const PRIVATE_FILES = 'Models cannot be kept: this browser gives the page no storage, as in private windows. They are downloaded again each time.';

const CPU = 'The processor does the work, which is fine for small models.';

async function gpu() {
  if (!isSecureContext) return `No graphics card is used: browsers allow that on https pages only. ${CPU}`;
  if (!navigator.gpu) return `No graphics card is used: this browser has no WebGPU. ${CPU}`;
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  if (!adapter || adapter.info?.isFallbackAdapter) return `No graphics card is used: this browser offers none to web pages here. ${CPU}`;
  return undefined;
}

/** Sentences; none if nothing is missing. */
export async function missing() {
  const isolation = !crossOriginIsolated && navigator.hardwareConcurrency > 1 ? ISOLATION : undefined;
  return [await gpu(), isolation, navigator.storage?.getDirectory ? undefined : PRIVATE_FILES].filter(Boolean);
}
