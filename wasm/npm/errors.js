// Errors as programs see them: one class, and a word for each kind.

/** What goes wrong in this package. `code` says what kind it is; the list is in index.d.ts. */
export class BonsaiError extends Error {
  constructor(code, message, options) {
    super(message, options);
    this.name = 'BonsaiError';
    this.code = code;
  }
}

/** An error as a message between threads can carry it. */
export function toWire(error) {
  if (error?.name === 'BonsaiError') return { code: error.code, message: error.message }; // a module's, too
  if (error instanceof WebAssembly.RuntimeError) {
    // Memory that ran out and bugs look alike from here. What is in its memory cannot be relied on any more.
    return { code: 'internal', fatal: true, message: `the WebAssembly module stopped (${error.message}); load the model again` };
  }
  return { code: 'internal', message: `${error?.message ?? error}` };
}

export const fromWire = ({ code, message }) => new BonsaiError(code, message);
