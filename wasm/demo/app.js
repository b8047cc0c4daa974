// The demo page: a model, a conversation, and what it runs on.
import { Model, cache } from '../npm/index.js';

const $ = (id) => document.getElementById(id);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

let model;
let session;
let messages = [];
let running; // the controller of what can be stopped

function say(text, error = false, where = 'status') {
  $(where).textContent = text;
  $(where).className = error ? 'error' : '';
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
    begin();
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
  $('info').replaceChildren(...Object.entries(facts).flatMap(([name, value]) => {
    const [term, data] = [document.createElement('dt'), document.createElement('dd')];
    [term.textContent, data.textContent] = [name, value];
    return value ? [term, data] : [];
  }));
  $('info').hidden = false;
  say([`Ready: ${facts.Model}.`, ...source.notes].join(' '));
}

async function listModels() {
  const stored = await cache.list().catch(() => []);
  $('stored').hidden = stored.length === 0;
  $('models').replaceChildren(...stored.map(({ url, name, bytes, stored: size, complete }) => {
    const item = document.createElement('li');
    const remove = document.createElement('button');
    remove.textContent = 'Delete';
    remove.setAttribute('aria-label', `Delete ${name}`);
    remove.onclick = () => cache.remove(url).catch((error) => say(error.message, true)).finally(listModels);
    const open = document.createElement('button');
    open.textContent = complete ? 'Load' : 'Go on loading';
    open.onclick = () => load(url);
    item.append(`${name}, ${complete ? megabytes(bytes) : `${megabytes(size)} of ${megabytes(bytes)}`} `, open, ' ', remove);
    return item;
  }));
}

// The conversation.

/** A model without a chat template goes on with the text; one with a template answers. */
const talks = () => model.info.chatTemplate;

function begin() {
  session?.free();
  session = model.session();
  messages = [];
  $('log').replaceChildren();
  $('prompt-label').textContent = talks() ? 'Your message' : 'Beginning of a text, for the model to go on with';
  $('send').textContent = talks() ? 'Send' : 'Write';
  $('send').disabled = false;
  $('forget').disabled = false;
}

function bubble(role, text) {
  const paragraph = document.createElement('p');
  paragraph.className = role;
  const who = document.createElement('strong');
  who.textContent = { user: 'You', assistant: model.info.name ?? 'Model' }[role];
  const words = document.createTextNode(text);
  paragraph.append(who, words);
  $('log').append(paragraph);
  return words;
}

function settings() {
  const names = ['temperature', 'topK', 'topP', 'minP', 'seed', 'maxTokens'];
  return Object.fromEntries(names.filter((name) => $(name).value !== '').map((name) => [name, Number($(name).value)]));
}

function pieces(prompt, options) {
  if (!talks()) return session.generate(prompt, options);
  const system = $('system').value ? [{ role: 'system', content: $('system').value }] : [];
  return session.chat([...system, ...messages], options);
}

async function answer(prompt) {
  const controller = (running = new AbortController());
  $('send').disabled = true;
  $('stop').disabled = false;
  say('', false, 'outcome');
  messages.push({ role: 'user', content: prompt });
  if (talks()) bubble('user', prompt);
  else await session.reset();
  const words = bubble('assistant', talks() ? '' : prompt);
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
    messages.push({ role: 'assistant', content: text });
    running = undefined;
    $('send').disabled = false;
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
  const rate = (count, time) => (time > 0 ? `${(count / time).toFixed(0)}/s` : '');
  $('speed').value = `prompt ${promptTokens} tokens ${rate(promptTokens, promptSeconds)} · written ${tokens} tokens ${rate(tokens, seconds)}`;
}

// What people do.

$('sample').onclick = () => load('stories.gguf');
$('file').onchange = ({ target }) => target.files[0] && load(target.files[0]);
$('address').onsubmit = (event) => {
  event.preventDefault();
  load($('url').value);
};
$('cancel').onclick = $('stop').onclick = () => running?.abort();
$('forget').onclick = () => {
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
document.ondragleave = () => document.body.classList.remove('dropping');
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove('dropping');
  const [file] = event.dataTransfer.files;
  if (file) load(file);
};
navigator.serviceWorker?.register('../service-worker.js').catch(() => {}); // without it, the page needs its server
listModels();
