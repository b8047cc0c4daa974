// Conversations, kept in this browser: { id, model, messages }.
const KEY = 'bonsai-conversations';
const MOST = 30;

const read = () => {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? [];
  } catch {
    return []; // nothing may be kept here, or it is no JSON
  }
};

function write(all) {
  try {
    localStorage.setItem(KEY, JSON.stringify(all));
  } catch {
    // no space, or nothing may be kept here: what is on the page stays there
  }
}

export const conversations = {
  /** The latest first. */
  list: read,
  /** Puts a conversation, or what it has become, in front. */
  keep: (conversation) => write([conversation, ...read().filter(({ id }) => id !== conversation.id)].slice(0, MOST)),
  remove: (id) => write(read().filter((conversation) => conversation.id !== id)),
};
