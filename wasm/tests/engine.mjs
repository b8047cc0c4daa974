// What Node 20 needs; Node 22 and later need none of it.
import { setFlagsFromString } from 'node:v8';

if (Number(process.versions.node.split('.')[0]) < 22) {
  setFlagsFromString('--experimental-wasm-relaxed-simd'); // there, but not on
  setFlagsFromString('--no-liftoff'); // its quick compiler overwrites the sum that a relaxed product is added to
  setFlagsFromString('--no-turbo-fast-api-calls'); // with them WASI is lost to the garbage collector while it runs
}
