// The demo page: a model, a conversation, and what it runs on.
import { Model, cache } from '../npm/index.js';
import { conversations } from './history.js';
import { missing } from './missing.js';

const $ = (id) => document.getElementById(id);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

let model;
let session;
let conversation = fresh();
let running; // the controller of what can be stopped

function say(text, error = false, where = 'status') {
  $(where).textContent = text;
  $(where).className = error ? 'error' : '';
}

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A row of a list: words, and buttons for what can be done. */
function row(words, ...actions) {
  const button = ([text, onclick, label = text]) => make('button', { type: 'button', textContent: text, ariaLabel: label, onclick });
  return make('li', {}, make('span', { textContent: words }), ...actions.map(button));
}

// The model.

async function load(source, options = {}) {
  running?.abort();
  const controller = (running = new AbortController());
  model?.free();
  model = undefined;
  $('send').disabled = true;
  $('info').hidden = true;
  $('loading').hidden = false;
  $('progress').removeAttribute('value');
  say('');
  try {
    model = await Model.load(source, { ...options, device: $('device').value, signal: controller.signal, onProgress: show });
    begin(conversation.messages.length ? conversation : undefined); // what was said stays
    await describe();
  } catch (error) {
    say(controller.signal.aborted ? 'Stopped. What has arrived is kept, and loading goes on from there.' : `This did not work: ${error.message}.`, !controller.signal.aborted);
  } finally {
    if (running === controller) {
      running = undefined;
      $('loading').hidden = true;
    }
    listModels();
  }
}

function show({ phase, loaded, total }) {
  if (phase === 'open') return void ($('bytes').textContent = 'Opening…');
  if (total) Object.assign($('progress'), { max: total, value: loaded });
  $('bytes').textContent = `${megabytes(loaded)}${total ? ` of ${megabytes(total)}` : ''}${phase === 'cache' ? ', kept here before' : ''}`;
}

async function describe() {
  const { info, backend, source } = model;
  const from = { network: 'downloaded', cache: 'from this browser, no download', file: 'a file of yours' }[source.from];
  const facts = {
    Model: info.name ?? 'without a name',
    Weights: `${(info.parameters / 1e6).toFixed(1)} million in ${info.layers} layers, ${megabytes(info.bytes)}`,
    Loaded: `${from}${source.cached ? ', kept for the next time' : ''}`,
    'Runs on': backend.description,
    Because: backend.reasons.join(' '),
  };
  const pair = ([name, value]) => [make('dt', { textContent: name }), make('dd', { textContent: value })];
  $('info').replaceChildren(...Object.entries(facts).filter(([, value]) => value).flatMap(pair));
  $('info').hidden = false;
  say([`Ready: ${facts.Model}.`, ...source.notes].join(' '));
}

async function listModels() {
  const stored = await cache.list().catch(() => []);
  $('stored').hidden = stored.length === 0;
  $('models').replaceChildren(...stored.map(({ url, name, bytes, stored: size, complete }) => {
    const remove = () => cache.remove(url).catch((error) => say(error.message, true)).finally(listModels);
    const open = complete ? 'Load' : 'Go on loading';
    return row(`${name}, ${complete ? megabytes(bytes) : `${megabytes(size)} of ${megabytes(bytes)}`}`,
      [open, () => load(url), `${open}: ${name}`], ['Delete', remove, `Delete ${name}`]);
  }));
}

// The conversation.

/** A model without a chat template goes on with the text; one with a template answers. */
const talks = () => model.info.chatTemplate;

function begin(next = fresh()) {
  session?.free();
  session = model.session();
  present(next);
  $('prompt-label').textContent = talks() ? 'Your message' : 'Beginning of a text, for the model to go on with';
  $('send').textContent = talks() ? 'Send' : 'Write';
  $('send').disabled = false;
  $('forget').disabled = false;
  say('', false, 'outcome');
}

/** A conversation that has not begun. */
function fresh() {
  return { id: `${Date.now()}`, model: model?.info.name ?? 'Model', talks: model !== undefined && talks(), messages: [] };
}

function bubble(role, text, beginning = '') {
  const words = document.createTextNode(text);
  const who = make('strong', { textContent: { user: 'You', assistant: conversation.model }[role] });
  $('log').append(make('p', { className: role }, who, ...(beginning ? [make('em', { textContent: beginning })] : []), words));
  return words;
}

/** Puts a conversation on the page, in place of the present one. */
function present(next) {
  conversation = next;
  $('log').replaceChildren();
  let beginning = '';
  for (const { role, content } of next.messages) {
    if (next.talks || role === 'assistant') bubble(role, content, beginning);
    beginning = next.talks || role === 'assistant' ? '' : content;
  }
}

/** The first words of a text. */
const start = (text) => (text.length > 60 ? `${text.slice(0, 60).replace(/\s+\S*$/, '')}…` : text);

function listConversations() {
  const all = conversations.list();
  $('earlier').hidden = all.length === 0;
  $('conversations').replaceChildren(...all.map((earlier) => {
    const title = start(earlier.messages.map(({ content }) => content).join(earlier.talks ? ' ' : ''));
    const open = () => {
      running?.abort();
      present(earlier);
      say(model ? '' : 'Load a model to go on.', false, 'outcome');
    };
    const remove = () => {
      conversations.remove(earlier.id);
      listConversations();
    };
    return row(title, ['Open', open, `Open: ${title}`], ['Delete', remove, `Delete: ${title}`]);
  }));
}

function settings() {
  const names = ['temperature', 'topK', 'topP', 'minP', 'seed', 'maxTokens'];
  return Object.fromEntries(names.filter((name) => $(name).value !== '').map((name) => [name, Number($(name).value)]));
}

function pieces(prompt, options) {
  if (!talks()) return session.generate(prompt, options);
  const system = $('system').value ? [{ role: 'system', content: $('system').value }] : [];
  return session.chat([...system, ...conversation.messages], options);
}

async function answer(prompt) {
  const controller = (running = new AbortController());
  $('send').disabled = true;
  $('stop').disabled = false;
  say('', false, 'outcome');
  const mine = conversation; // another one may take its place
  mine.messages.push({ role: 'user', content: prompt });
  if (talks()) bubble('user', prompt);
  else await session.reset();
  const words = bubble('assistant', '', talks() ? '' : prompt);
  let text = '';
  try {
    for await (const piece of pieces(prompt, { ...settings(), signal: controller.signal })) {
      text += piece;
      words.data += piece;
      $('log').scrollTop = $('log').scrollHeight;
      speed();
    }
    speed();
    say(OUTCOMES[session.stats.stop], false, 'outcome');
  } catch (error) {
    const stopped = controller.signal.aborted;
    say(stopped ? 'Stopped.' : `This did not work: ${error.message}.`, !stopped, 'outcome');
  } finally {
    mine.messages.push({ role: 'assistant', content: text });
    if (text) conversations.keep(mine);
    listConversations();
    if (running === controller) { // else a model is being loaded by now
      running = undefined;
      $('send').disabled = false;
    }
    $('stop').disabled = true;
  }
}

const OUTCOMES = {
  end: 'Done.',
  length: 'Stopped at the number of tokens in the settings.',
  context: 'The context of this model is full.',
};

function speed() {
  const { promptTokens, promptSeconds, tokens, seconds } = session.stats;
  const rate = (count, time) => (time > 0 ? ` at ${(count / time).toFixed(0)}/s` : '');
  $('speed').value = `Prompt: ${promptTokens} tokens${rate(promptTokens, promptSeconds)} · written: ${tokens} tokens${rate(tokens, seconds)}`;
}

// What people do.

$('sample').onclick = () => load('stories.gguf');
$('file').onchange = ({ target }) => target.files[0] && load(target.files[0]);
$('address').onsubmit = (event) => {
  event.preventDefault();
  cache.persist(); // somebody wants this one: the browser should not delete it by itself
  load($('url').value);
};
$('cancel').onclick = $('stop').onclick = () => running?.abort();
$('forget').onclick = () => {
  if (!model) return; // it is still being loaded
  running?.abort();
  begin();
  $('prompt').focus();
};
$('ask').onsubmit = (event) => {
  event.preventDefault();
  if (model && $('prompt').value && !running) answer($('prompt').value);
};
$('prompt').onkeydown = (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $('ask').requestSubmit();
};
document.ondragover = (event) => {
  event.preventDefault();
  document.body.classList.add('dropping');
};
document.ondragleave = ({ relatedTarget }) => relatedTarget ?? document.body.classList.remove('dropping');
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove('dropping');
  const [file] = event.dataTransfer.files;
  if (file) load(file);
};
navigator.serviceWorker?.register('../service-worker.js').catch(() => {}); // without it, the page needs its server
missing().then((sentences) => {
  $('missing').replaceChildren(...sentences.map((words) => make('li', { textContent: words })));
  $('missing').hidden = sentences.length === 0;
});
listModels();
listConversations();
