/*
 * libbonsai: runs ternary language models (every weight -1, 0 or +1).
 *
 * Handles. Models, sessions and texts are numbers, never pointers. 0, a freed handle, a handle of another kind and any
 * other number are refused with BONSAI_ERROR_HANDLE. Freeing 0 or a freed handle does nothing. A session keeps what it
 * needs of its model: free them in any order.
 *
 * Results. A function that can fail returns a status: BONSAI_OK or one of BONSAI_ERROR_*; BONSAI_END is no failure, but
 * says that nothing more comes. Numbers are never reused. bonsai_last_error() says in a sentence what went wrong. After
 * an error, outputs have not been written, except lengths after BONSAI_ERROR_BUFFER, and handles are as they were.
 *
 * Text is UTF-8, as a pointer and a length in bytes; BONSAI_STRLEN as the length of an input means that it ends with a
 * zero byte. Null is an empty input where the length is 0. Input is not kept: it can be freed when the call returns.
 *
 * Outputs of unknown length go into a buffer of yours: `capacity` elements at `buffer`, and `*length` says how many there
 * are. Text gets no zero byte behind it. If the buffer is too small, the status is BONSAI_ERROR_BUFFER, nothing is
 * written but `*length`, and nothing has changed: ask with a capacity of 0 first, or ask again. You never free memory
 * of the library, and it never frees yours.
 *
 * Options are structs that begin with their own size, set to sizeof by you; null means the defaults. A field of 0 is
 * the default, too (bonsai_sampling_options has an init function instead). Programs compiled against an older, shorter
 * struct go on working.
 *
 * Threads. Every function may be called from any thread.
 *
 *   a model       many threads at the same time
 *   a session     one call at a time, from any thread; a second one gets BONSAI_ERROR_BUSY and waits for nothing.
 *                 bonsai_session_cancel may be called at any moment, and the free functions as well: what is freed
 *                 while a call uses it lives until that call returns
 *   a text        as a session
 *   last error    one for each thread
 *   log function  called by the thread whose call logs; may be set at any moment
 *
 * Callbacks run on the thread that made the call, and get your `user` pointer back. They must return: no longjmp and no
 * C++ exception may leave them. A call about the session that called back gets BONSAI_ERROR_BUSY, except cancel.
 *
 * The library prints nothing, starts threads only to compute, and installs no signal handlers.
 */


#ifndef LIBBONSAI_H
#define LIBBONSAI_H

/* Written by cbindgen from ffi/src; do not edit. */

#include <stdint.h>

/**
 * Changes when a program compiled against an older header can no longer work with this library.
 */
#define BONSAI_ABI_VERSION 1

/**
 * All is well.
 */
#define BONSAI_OK 0

/**
 * The operating system refused a file operation.
 */
#define BONSAI_ERROR_IO 1

/**
 * A file or saved session is not what it claims to be, or belongs to something else.
 */
#define BONSAI_ERROR_FORMAT 2

/**
 * Sound, but not done by this library.
 */
#define BONSAI_ERROR_UNSUPPORTED 3

/**
 * The tokenizer could not be built or used.
 */
#define BONSAI_ERROR_TOKENIZER 4

/**
 * An argument makes no sense.
 */
#define BONSAI_ERROR_ARGUMENT 5

/**
 * A token id is outside the vocabulary.
 */
#define BONSAI_ERROR_TOKEN 6

/**
 * The context is full.
 */
#define BONSAI_ERROR_CONTEXT_FULL 7

/**
 * Not enough memory.
 */
#define BONSAI_ERROR_MEMORY 8

/**
 * Stopped, as you asked.
 */
#define BONSAI_ERROR_CANCELLED 9

/**
 * A check found something that must not be.
 */
#define BONSAI_ERROR_CHECK 10

/**
 * The chat template could not be read or run, or there is none.
 */
#define BONSAI_ERROR_TEMPLATE 11

/**
 * There is no GPU that can be used, or it failed.
 */
#define BONSAI_ERROR_GPU 12

/**
 * Not a handle, not of this kind, or freed.
 */
#define BONSAI_ERROR_HANDLE 32

/**
 * A pointer is null that must not be, or not aligned for what it points to.
 */
#define BONSAI_ERROR_POINTER 33

/**
 * An options struct begins with an impossible size, or sets something that this version does not know.
 */
#define BONSAI_ERROR_OPTIONS 34

/**
 * Text is not UTF-8.
 */
#define BONSAI_ERROR_UTF8 35

/**
 * Your buffer is too small; the length says what is needed.
 */
#define BONSAI_ERROR_BUFFER 36

/**
 * Another call is using this session or text.
 */
#define BONSAI_ERROR_BUSY 37

/**
 * A fault in the library. The handle involved can only be freed; the rest works on.
 */
#define BONSAI_ERROR_PANIC 38

/**
 * Nothing more comes: the model has ended its answer.
 */
#define BONSAI_END 64

/**
 * A remark: what was opened, and how it will be computed.
 */
#define BONSAI_LOG_INFO 1

/**
 * As the length of an input text: it ends with a zero byte.
 */
#define BONSAI_STRLEN 18446744073709551615ull

/**
 * A graphics card, if the library was built for them and one computes what the processor does; else the processor.
 */
#define BONSAI_DEVICE_AUTO 0

/**
 * The processor.
 */
#define BONSAI_DEVICE_CPU 1

/**
 * A graphics processor, or an error. It computes with f32 activations: nearly the processor's numbers, not its bits.
 */
#define BONSAI_DEVICE_GPU 2

/**
 * Keys and values as int16, as f16 on a GPU, as f32 in exact mode.
 */
#define BONSAI_KV_DEFAULT 0

/**
 * Keys and values as f16.
 */
#define BONSAI_KV_F16 1

/**
 * Keys and values as int8: half the memory of f16.
 */
#define BONSAI_KV_INT8 2

/**
 * Keys and values as f32.
 */
#define BONSAI_KV_F32 3

/**
 * Keys and values as int4: a quarter of the memory of f16. Not on a GPU.
 */
#define BONSAI_KV_INT4 4

/**
 * Keys and values as int16: the memory of f16, quicker. Not on a GPU.
 */
#define BONSAI_KV_INT16 5

/**
 * The template decides whether the model thinks before it answers.
 */
#define BONSAI_THINKING_DEFAULT 0

/**
 * The model thinks before it answers.
 */
#define BONSAI_THINKING_ON 1

/**
 * The model answers at once.
 */
#define BONSAI_THINKING_OFF 2

/**
 * As an id: text without a token, U+FFFD at the end of an answer that broke off within a character.
 */
#define BONSAI_NO_TOKEN 4294967295

/**
 * Gets a line of the log: UTF-8 of `length` bytes, without a zero byte or line break, good until it returns.
 */
typedef void (*bonsai_log_callback)(void *user, int32_t level, const char *message, uint64_t length);

/**
 * How tokens are chosen. Fill it with `bonsai_sampling_options_init`, then change what you like.
 */
typedef struct bonsai_sampling_options {
    /**
     * `sizeof(bonsai_sampling_options)`.
     */
    uint32_t size;
    /**
     * Below 1 sharpens, above 1 flattens; 0 always takes the likeliest token.
     */
    float temperature;
    /**
     * Choose among so many likeliest tokens; 0: all.
     */
    uint32_t top_k;
    /**
     * Choose among the likeliest tokens that together have this probability; 1: all.
     */
    float top_p;
    /**
     * Choose among tokens at least this fraction as likely as the likeliest; 0: all.
     */
    float min_p;
    /**
     * Divides positive logits of recent tokens, multiplies negative ones; 1: does nothing.
     */
    float repeat_penalty;
    /**
     * How many tokens count as recent.
     */
    uint32_t repeat_last_n;
    /**
     * Must be 0.
     */
    uint32_t reserved;
    /**
     * Start of the random numbers: the same seed gives the same text, on every machine.
     */
    uint64_t seed;
} bonsai_sampling_options;

/**
 * Told how far a model is: `done` of `total` bytes. Anything but 0 stops the loading with `BONSAI_ERROR_CANCELLED`.
 */
typedef int32_t (*bonsai_progress_callback)(void *user, uint64_t done, uint64_t total);

/**
 * How a model is opened.
 */
typedef struct bonsai_model_options {
    /**
     * `sizeof(bonsai_model_options)`.
     */
    uint32_t size;
    /**
     * `BONSAI_DEVICE_*`, for all sessions of the model. A GPU is opened, given the weights and tested before this call
     * returns.
     */
    uint32_t device;
    /**
     * Not 0: read all weights now, so that the first token comes as fast as the others. They are mapped in any case.
     */
    uint32_t preload;
    /**
     * Must be 0.
     */
    uint32_t reserved;
    /**
     * Told how far it is; may be null.
     */
    bonsai_progress_callback progress;
    /**
     * Handed to `progress`.
     */
    void *user;
} bonsai_model_options;

/**
 * How a conversation becomes text.
 */
typedef struct bonsai_chat_options {
    /**
     * `sizeof(bonsai_chat_options)`.
     */
    uint32_t size;
    /**
     * `BONSAI_THINKING_*`.
     */
    uint32_t thinking;
    /**
     * Not 0: leave out the words that begin an answer.
     */
    uint32_t no_generation_prompt;
    /**
     * Not 0: where the model has no template, use a plain `User: ... Assistant:` instead of failing.
     */
    uint32_t plain;
    /**
     * Functions that the model may call, as a JSON array of schemas; may be null.
     */
    const char *tools;
    /**
     * Bytes of `tools`, or `BONSAI_STRLEN`.
     */
    uint64_t tools_length;
} bonsai_chat_options;

/**
 * How a session computes.
 */
typedef struct bonsai_session_options {
    /**
     * `sizeof(bonsai_session_options)`.
     */
    uint32_t size;
    /**
     * Most tokens of prompt and answer together; 0: the model's, at most 4096.
     */
    uint32_t context;
    /**
     * Threads of its own, the caller's included; 0: one per fast core. Never changes a result.
     */
    uint32_t threads;
    /**
     * `BONSAI_KV_*`: how keys and values are kept. On a GPU not as f32.
     */
    uint32_t kv;
    /**
     * Not 0: activations in f32 instead of i8. Several times slower. A GPU always has them so.
     */
    uint32_t exact;
} bonsai_session_options;

/**
 * Gets each token of an answer: its id (or `BONSAI_NO_TOKEN`), and the text that is certain with it, UTF-8 without a zero
 * byte, good until it returns. Anything but 0 ends the generation, which is no error.
 */
typedef int32_t (*bonsai_token_callback)(void *user, uint32_t id, const char *text, uint64_t length);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The ABI version of the library that is running: compare it with `BONSAI_ABI_VERSION`.
 */
uint32_t bonsai_abi_version(void);

/**
 * The version of the library, `"0.1.0"`. Static, ends with a zero byte, never freed.
 */
const char *bonsai_version(void);

/**
 * Why the last call on this thread that failed did so: a sentence in UTF-8 that ends with a zero byte, empty if none has.
 * Calls that succeed leave it as it is. The text belongs to the library and is good until the next call of this thread
 * that fails.
 */
const char *bonsai_last_error(void);

/**
 * Sends the log to a function of yours; null, the default, sends it nowhere. Calls under way in other threads may
 * still use the function before.
 */
void bonsai_set_log(bonsai_log_callback callback,
                    void *user);

/**
 * Fills options with the defaults (temperature 0.8, top-k 40, top-p 0.95, min-p 0.05, seed 0). `size` is
 * `sizeof(bonsai_sampling_options)`; not more is written.
 */
int32_t bonsai_sampling_options_init(struct bonsai_sampling_options *options,
                                     uint32_t size);

/**
 * Opens a GGUF file, or a directory in Hugging Face's form. Files are mapped, not copied. The path is not kept. You own
 * the model: free it with `bonsai_model_free`.
 */
int32_t bonsai_model_open(const char *path,
                          uint64_t path_length,
                          const struct bonsai_model_options *options,
                          uint64_t *model);

/**
 * Opens a GGUF file that is in memory. The bytes are copied and can be freed when this returns. You own the model: free
 * it with `bonsai_model_free`.
 */
int32_t bonsai_model_open_bytes(const uint8_t *bytes,
                                uint64_t length,
                                const struct bonsai_model_options *options,
                                uint64_t *model);

/**
 * Frees a model. Sessions and texts made from it live on. Nothing happens for 0, a freed handle, or one of another kind.
 */
void bonsai_model_free(uint64_t model);

/**
 * Facts about a model, as a JSON object: `description`, `backend` (where it computes, and why there), `parameters`,
 * `bytes` (of the matrices), `layers`, `vocab` (length of the logits), `context` (longest), `eos` (ids that end an
 * answer), `tokenizer` and `chat_template` (whether it has one). The text is copied into your buffer.
 */
int32_t bonsai_model_info(uint64_t model,
                          char *buffer,
                          uint64_t capacity,
                          uint64_t *length);

/**
 * Token ids of a text. With `specials` not 0, special tokens written in it (`<|im_end|>`) become their ids, and a token
 * that begins texts is put in front where the model wants one; use 0 for text by strangers within a prompt. The text is
 * not kept; the ids are copied into your buffer.
 */
int32_t bonsai_model_encode(uint64_t model,
                            const char *text,
                            uint64_t text_length,
                            uint32_t specials,
                            uint32_t *buffer,
                            uint64_t capacity,
                            uint64_t *length);

/**
 * The text of token ids, special tokens left out unless `specials` is not 0. Bytes that are no character give U+FFFD; for
 * ids that come one by one there is `bonsai_text_new`. The ids are not kept; the text is copied into your buffer.
 */
int32_t bonsai_model_decode(uint64_t model,
                            const uint32_t *ids,
                            uint64_t count,
                            uint32_t specials,
                            char *buffer,
                            uint64_t capacity,
                            uint64_t *length);

/**
 * A conversation as the text to feed, by the model's own template. `messages` is a JSON array of objects with `role`
 * (`system`, `user`, `assistant`, `tool`) and `content`; `tool_calls`, `reasoning_content` and others reach the template,
 * too. Templates run in a sandbox. Encode the text with `specials`; what users wrote in it can then name special tokens,
 * as with every program that uses such templates. Messages and options are not kept; the text is copied into your buffer.
 */
int32_t bonsai_model_chat(uint64_t model,
                          const char *messages,
                          uint64_t messages_length,
                          const struct bonsai_chat_options *options,
                          char *buffer,
                          uint64_t capacity,
                          uint64_t *length);

/**
 * Starts a conversation. The options are not kept. You own the session: free it with `bonsai_session_free`.
 */
int32_t bonsai_session_new(uint64_t model,
                           const struct bonsai_session_options *options,
                           uint64_t *session);

/**
 * Frees a session. Nothing happens for 0, a freed handle, or one of another kind.
 */
void bonsai_session_free(uint64_t session);

/**
 * Says how tokens are chosen from now on, and begins the random numbers again. Null: the defaults. The options are not
 * kept.
 */
int32_t bonsai_session_set_sampling(uint64_t session,
                                    const struct bonsai_sampling_options *options);

/**
 * Feeds tokens, behind those that are there; what `bonsai_session_next` gave last is fed before them by itself.
 * Long prompts are fed in chunks of 128, and cancellation is noticed between them: the chunks that were fed stay. The
 * ids are not kept.
 */
int32_t bonsai_session_prompt(uint64_t session,
                              const uint32_t *ids,
                              uint64_t count);

/**
 * Makes these tokens the whole conversation, and feeds only those after the first that differs from what is there: for
 * chats, where each turn begins with all turns before. `fed` gets the number of tokens that were fed; it may be null. The
 * ids are not kept.
 */
int32_t bonsai_session_set_tokens(uint64_t session,
                                  const uint32_t *ids,
                                  uint64_t count,
                                  uint64_t *fed);

/**
 * Chooses the next token. Returns `BONSAI_END` where the model ends its answer.
 */
int32_t bonsai_session_next(uint64_t session, uint32_t *id);

/**
 * Generates up to `most` tokens, and calls `callback` with each. `generated` gets their number, also after an error; it
 * may be null. Returns `BONSAI_OK` when there are `most` or the callback wants no more, `BONSAI_END` when the model has
 * ended its answer.
 */
int32_t bonsai_session_generate(uint64_t session,
                                uint64_t most,
                                bonsai_token_callback callback,
                                void *user,
                                uint64_t *generated);

/**
 * Stops the call that is using this session with `BONSAI_ERROR_CANCELLED`: before its next token, or its next 128 tokens
 * of prompt. If there is none, stops the next one. The session can be used as before. May be called from any thread, and
 * from callbacks.
 */
int32_t bonsai_session_cancel(uint64_t session);

/**
 * Forgets the conversation, and a cancellation that nobody noticed, and begins the random numbers again.
 */
int32_t bonsai_session_reset(uint64_t session);

/**
 * Tokens fed so far, and how many fit; either may be null.
 */
int32_t bonsai_session_position(uint64_t session, uint64_t *position, uint64_t *context);

/**
 * Logits of the token behind the last one that was fed, copied into your buffer: as many as the vocabulary has ids, none
 * before a prompt.
 */
int32_t bonsai_session_logits(uint64_t session,
                              float *buffer,
                              uint64_t capacity,
                              uint64_t *length);

/**
 * The conversation as bytes, copied into your buffer, to go on with it later without feeding it again. They hold what was
 * said and the model's state, not how tokens are chosen. A token that was chosen but not fed is not in it. Sessions on a
 * GPU cannot be saved.
 */
int32_t bonsai_session_save(uint64_t session,
                            uint8_t *buffer,
                            uint64_t capacity,
                            uint64_t *length);

/**
 * Goes on with a saved conversation, in place of the present one. Bytes that are damaged, of another model or of a
 * session with another KV format or mode are refused and change nothing. Feeds one token. Begins the random numbers
 * again. The bytes are not kept.
 */
int32_t bonsai_session_restore(uint64_t session,
                               const uint8_t *bytes,
                               uint64_t length);

/**
 * Begins a text. A character whose bytes are spread over several tokens comes out with the last of them. You own it: free
 * it with `bonsai_text_free`. `BONSAI_ERROR_UNSUPPORTED` for a tokenizer whose tokens are not bytes: its text comes from
 * `bonsai_session_generate`, or whole from `bonsai_model_decode`.
 */
int32_t bonsai_text_new(uint64_t model,
                        uint64_t *text);

/**
 * Adds a token; gives the text that is now certain, copied into your buffer: often a word, sometimes nothing.
 */
int32_t bonsai_text_push(uint64_t text,
                         uint32_t id,
                         char *buffer,
                         uint64_t capacity,
                         uint64_t *length);

/**
 * Ends a text: gives U+FFFD, copied into your buffer, for bytes that cannot become a character any more, and begins a new
 * one.
 */
int32_t bonsai_text_finish(uint64_t text,
                           char *buffer,
                           uint64_t capacity,
                           uint64_t *length);

/**
 * Frees a text. Nothing happens for 0, a freed handle, or one of another kind.
 */
void bonsai_text_free(uint64_t text);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* LIBBONSAI_H */
