/* What a careless or hostile program does to the library: every call must come back with an error. Run under the address
 * sanitizer and valgrind. hostile MODEL.gguf */
#include "libbonsai.h"

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(status, call) expect((status), (call), #call, __LINE__)

static void expect(int32_t expected, int32_t found, const char *call, int line) {
    if (found != expected) {
        fprintf(stderr, "line %d: %s gave %d, not %d (%s)\n", line, call, (int)found, (int)expected, bonsai_last_error());
        exit(1);
    }
    if (expected != BONSAI_OK && expected != BONSAI_END && bonsai_last_error()[0] == 0) {
        fprintf(stderr, "line %d: no message\n", line);
        exit(1);
    }
}

static void require(int truth, const char *what) {
    if (!truth) {
        fprintf(stderr, "not so: %s\n", what);
        exit(1);
    }
}

static uint64_t open_model(const char *path) {
    uint64_t model = 0;
    EXPECT(BONSAI_OK, bonsai_model_open(path, BONSAI_STRLEN, NULL, &model));
    return model;
}

static uint64_t new_session(uint64_t model) {
    uint64_t session = 0;
    EXPECT(BONSAI_OK, bonsai_session_new(model, NULL, &session));
    return session;
}

static unsigned char *read_file(const char *path, uint64_t *length) {
    FILE *file = fopen(path, "rb");
    require(file != NULL, "the model can be read");
    fseek(file, 0, SEEK_END);
    *length = (uint64_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc((size_t)*length);
    require(fread(bytes, 1, (size_t)*length, file) == *length, "all of the model is read");
    fclose(file);
    return bytes;
}

static void nulls(uint64_t model, uint64_t session) {
    uint64_t n;
    uint32_t id;
    char text[64];
    EXPECT(BONSAI_ERROR_POINTER, bonsai_model_open(NULL, 3, NULL, &n));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_model_open(NULL, BONSAI_STRLEN, NULL, &n));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_model_open("x", BONSAI_STRLEN, NULL, NULL));
    EXPECT(BONSAI_ERROR_IO, bonsai_model_open(NULL, 0, NULL, &n));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_model_open_bytes(NULL, 5, NULL, &n));
    EXPECT(BONSAI_ERROR_FORMAT, bonsai_model_open_bytes(NULL, 0, NULL, &n));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_model_open_bytes((const uint8_t *)text, UINT64_MAX, NULL, &n));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_model_info(model, NULL, 0, NULL));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_model_info(model, NULL, 9, &n));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_model_encode(model, NULL, 1, 1, &id, 1, &n));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_model_decode(model, NULL, 1, 1, text, sizeof text, &n));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_model_decode(model, (const uint32_t *)(const void *)(text + 1), 1, 1, text, 9, &n));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_model_chat(model, NULL, BONSAI_STRLEN, NULL, text, sizeof text, &n));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_session_new(model, NULL, NULL));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_session_prompt(session, NULL, 1));
    EXPECT(BONSAI_ERROR_ARGUMENT, bonsai_session_prompt(session, NULL, 0));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_session_prompt(session, &id, UINT64_MAX / 2));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_session_next(session, NULL));
    EXPECT(BONSAI_ERROR_ARGUMENT, bonsai_session_next(session, &id));
    EXPECT(BONSAI_ERROR_ARGUMENT, bonsai_session_generate(session, 3, NULL, NULL, NULL));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_session_logits(session, NULL, 0, NULL));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_session_save(session, NULL, 1, &n));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_session_restore(session, NULL, 1));
    EXPECT(BONSAI_ERROR_FORMAT, bonsai_session_restore(session, NULL, 0));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_text_new(model, NULL));
    EXPECT(BONSAI_ERROR_POINTER, bonsai_sampling_options_init(NULL, 40));
    EXPECT(BONSAI_OK, bonsai_session_position(session, NULL, NULL));
}

static void handles(uint64_t model, uint64_t session, const char *path) {
    uint64_t n, other = open_model(path);
    uint32_t id;
    bonsai_model_free(other);
    bonsai_model_free(other);
    bonsai_model_free(0);
    bonsai_session_free(0);
    bonsai_text_free(0);
    bonsai_session_free(model); /* another kind: nothing happens */
    bonsai_model_free(session);
    bonsai_text_free(session);
    const uint64_t wrong[] = {0, 1, 42, UINT64_MAX, other, session, model + 1, model ^ ((uint64_t)1 << 40)};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        EXPECT(BONSAI_ERROR_HANDLE, bonsai_model_info(wrong[i], NULL, 0, &n));
        EXPECT(BONSAI_ERROR_HANDLE, bonsai_model_encode(wrong[i], "a", 1, 1, NULL, 0, &n));
        EXPECT(BONSAI_ERROR_HANDLE, bonsai_session_new(wrong[i], NULL, &n));
        EXPECT(BONSAI_ERROR_HANDLE, bonsai_text_new(wrong[i], &n));
        EXPECT(BONSAI_ERROR_HANDLE, bonsai_text_finish(wrong[i], NULL, 0, &n));
    }
    EXPECT(BONSAI_ERROR_HANDLE, bonsai_session_next(model, &id));
    EXPECT(BONSAI_ERROR_HANDLE, bonsai_session_cancel(model));
    EXPECT(BONSAI_ERROR_HANDLE, bonsai_session_reset(other));
    EXPECT(BONSAI_OK, bonsai_session_reset(session));
}

static void options(uint64_t model, uint64_t session) {
    uint64_t n = 0;
    struct {
        bonsai_session_options known;
        uint32_t more[3];
    } longer = {{0, 0, 0, 0, 0}, {0, 0, 0}};
    const uint32_t bad_sizes[] = {0, 1, 2, 3, 6, 5000, UINT32_MAX};
    for (size_t i = 0; i < sizeof bad_sizes / sizeof *bad_sizes; i++) {
        longer.known.size = bad_sizes[i];
        EXPECT(BONSAI_ERROR_OPTIONS, bonsai_session_new(model, &longer.known, &n));
    }
    longer.known.size = sizeof longer; /* a newer program that asks for nothing new */
    EXPECT(BONSAI_OK, bonsai_session_new(model, &longer.known, &n));
    bonsai_session_free(n);
    longer.more[1] = 1;
    EXPECT(BONSAI_ERROR_OPTIONS, bonsai_session_new(model, &longer.known, &n));
    longer.known.kv = 99; /* beyond the size of an older program */
    longer.known.size = offsetof(bonsai_session_options, kv);
    EXPECT(BONSAI_OK, bonsai_session_new(model, &longer.known, &n));
    bonsai_session_free(n);
    longer.known.size = sizeof longer.known;
    EXPECT(BONSAI_ERROR_OPTIONS, bonsai_session_new(model, &longer.known, &n));
    longer.known.kv = BONSAI_KV_INT8;
    longer.known.context = 100000;
    EXPECT(BONSAI_ERROR_ARGUMENT, bonsai_session_new(model, &longer.known, &n));

    bonsai_model_options device = {sizeof device, BONSAI_DEVICE_GPU, 0, 0, NULL, NULL};
    EXPECT(BONSAI_ERROR_UNSUPPORTED, bonsai_model_open("x", 1, &device, &n));
    device.device = 77;
    EXPECT(BONSAI_ERROR_OPTIONS, bonsai_model_open("x", 1, &device, &n));
    device.size = 20; /* would cut a pointer in two */
    EXPECT(BONSAI_ERROR_OPTIONS, bonsai_model_open("x", 1, &device, &n));

    bonsai_sampling_options sampling;
    EXPECT(BONSAI_ERROR_OPTIONS, bonsai_sampling_options_init(&sampling, 7));
    EXPECT(BONSAI_OK, bonsai_sampling_options_init(&sampling, sizeof sampling));
    require(sampling.size == sizeof sampling && sampling.top_k == 40, "the defaults are there");
    sampling.temperature = -1;
    EXPECT(BONSAI_ERROR_OPTIONS, bonsai_session_set_sampling(session, &sampling));
    EXPECT(BONSAI_OK, bonsai_session_set_sampling(session, NULL));
}

static void texts(uint64_t model) {
    uint64_t n, text;
    uint32_t ids[8];
    char out[8];
    EXPECT(BONSAI_ERROR_UTF8, bonsai_model_open("\xff\xfe", BONSAI_STRLEN, NULL, &n));
    EXPECT(BONSAI_ERROR_UTF8, bonsai_model_encode(model, "ab\xc3", 3, 1, ids, 8, &n));
    EXPECT(BONSAI_ERROR_UTF8, bonsai_model_chat(model, "\xff", 1, NULL, out, 8, &n));
    EXPECT(BONSAI_ERROR_ARGUMENT, bonsai_model_chat(model, "[1]", 3, NULL, out, 8, &n));
    EXPECT(BONSAI_ERROR_BUFFER, bonsai_model_encode(model, "abcd", 4, 1, ids, 3, &n));
    require(n == 4, "the length says what is needed");
    EXPECT(BONSAI_OK, bonsai_model_encode(model, "abcd", 4, 1, ids, 4, &n));
    EXPECT(BONSAI_OK, bonsai_model_encode(model, NULL, 0, 1, NULL, 0, &n));
    require(n == 0, "no text, no ids");
    ids[0] = 100000;
    EXPECT(BONSAI_ERROR_TOKEN, bonsai_model_decode(model, ids, 1, 1, out, 8, &n));

    /* The two bytes of an e with an acute accent, one at a time; a buffer too small changes nothing. */
    EXPECT(BONSAI_OK, bonsai_text_new(model, &text));
    EXPECT(BONSAI_OK, bonsai_text_push(text, 0xc3, NULL, 0, &n));
    require(n == 0, "half a character is no text");
    EXPECT(BONSAI_ERROR_BUFFER, bonsai_text_push(text, 0xa9, out, 1, &n));
    require(n == 2, "it will be two bytes");
    EXPECT(BONSAI_OK, bonsai_text_push(text, 0xa9, out, 2, &n));
    require(n == 2 && memcmp(out, "\xc3\xa9", 2) == 0, "a whole character");
    EXPECT(BONSAI_ERROR_TOKEN, bonsai_text_push(text, 99999, out, 8, &n));
    EXPECT(BONSAI_OK, bonsai_text_push(text, 0xc3, NULL, 0, &n));
    EXPECT(BONSAI_ERROR_BUFFER, bonsai_text_finish(text, out, 2, &n));
    EXPECT(BONSAI_OK, bonsai_text_finish(text, out, 3, &n));
    require(n == 3 && memcmp(out, "\xef\xbf\xbd", 3) == 0, "U+FFFD");
    bonsai_text_free(text);
    EXPECT(BONSAI_ERROR_HANDLE, bonsai_text_push(text, 1, out, 8, &n));
}

static void conversations(uint64_t model) {
    uint64_t n;
    char out[64];
    const char *messages = "[{\"role\": \"user\", \"content\": \"caf\xc3\xa9\"}]";
    bonsai_chat_options options = {sizeof options, BONSAI_THINKING_OFF, 0, 0, "[{\"name\": \"f\"}]", BONSAI_STRLEN};
    EXPECT(BONSAI_ERROR_BUFFER, bonsai_model_chat(model, messages, BONSAI_STRLEN, &options, out, 4, &n));
    EXPECT(BONSAI_OK, bonsai_model_chat(model, messages, BONSAI_STRLEN, &options, out, 5, &n));
    require(n == 5 && memcmp(out, "caf\xc3\xa9", 5) == 0, "this model's template gives the first content");
    options.tools = "{}";
    EXPECT(BONSAI_ERROR_ARGUMENT, bonsai_model_chat(model, messages, BONSAI_STRLEN, &options, out, 5, &n));
    options.tools = NULL;
    EXPECT(BONSAI_ERROR_POINTER, bonsai_model_chat(model, messages, BONSAI_STRLEN, &options, out, 5, &n));
    options.tools_length = 0;
    options.thinking = 9;
    EXPECT(BONSAI_ERROR_OPTIONS, bonsai_model_chat(model, messages, BONSAI_STRLEN, &options, out, 5, &n));
    EXPECT(BONSAI_ERROR_TEMPLATE, bonsai_model_chat(model, "[]", 2, NULL, out, 5, &n)); /* there is no first one */
}

static void damaged_models(const char *path) {
    uint64_t length, model = 7;
    unsigned char *bytes = read_file(path, &length);
    for (uint64_t n = 0; n < length; n += length / 23 + 1) {
        unsigned char *part = malloc((size_t)n + 1); /* so that the sanitizer sees its end */
        memcpy(part, bytes, (size_t)n);
        EXPECT(BONSAI_ERROR_FORMAT, bonsai_model_open_bytes(part, n, NULL, &model));
        free(part);
    }
    require(model == 7, "an error writes no handle");
    EXPECT(BONSAI_OK, bonsai_model_open_bytes(bytes, length, NULL, &model));
    free(bytes); /* the model has its own copy */
    uint64_t session = new_session(model);
    const uint32_t ids[] = {1, 2, 3};
    EXPECT(BONSAI_OK, bonsai_session_prompt(session, ids, 3));
    bonsai_model_free(model);
    uint32_t id;
    EXPECT(BONSAI_OK, bonsai_session_next(session, &id)); /* a session keeps its model */
    bonsai_session_free(session);
}

static int32_t progress(void *user, uint64_t done, uint64_t total) {
    uint64_t *seen = user;
    require(done <= total && done >= seen[1], "progress goes forward");
    seen[0] += 1;
    seen[1] = done;
    return seen[2] != 0;
}

static void loading(const char *path) {
    uint64_t model, seen[3] = {0, 0, 0};
    bonsai_model_options options = {sizeof options, BONSAI_DEVICE_CPU, 1, 0, progress, seen};
    EXPECT(BONSAI_OK, bonsai_model_open(path, BONSAI_STRLEN, &options, &model));
    require(seen[0] > 2 && seen[1] > 1000, "loading tells how far it is");
    bonsai_model_free(model);
    uint64_t cancel[3] = {0, 0, 1};
    options.user = cancel;
    EXPECT(BONSAI_ERROR_CANCELLED, bonsai_model_open(path, BONSAI_STRLEN, &options, &model));
}

struct generation {
    uint64_t session, count, stop_after;
    int cancel;
};

static int32_t token(void *user, uint32_t id, const char *text, uint64_t length) {
    struct generation *g = user;
    uint32_t next;
    (void)text;
    (void)length;
    if (id == BONSAI_NO_TOKEN) return 0; /* the answer broke off within a character */
    require(id < 260, "an id of the vocabulary");
    EXPECT(BONSAI_ERROR_BUSY, bonsai_session_next(g->session, &next)); /* its own session is in use */
    EXPECT(BONSAI_ERROR_BUSY, bonsai_session_reset(g->session));
    g->count += 1;
    if (g->cancel && g->count == g->stop_after) EXPECT(BONSAI_OK, bonsai_session_cancel(g->session));
    return !g->cancel && g->count == g->stop_after;
}

static void generation(uint64_t model) {
    uint64_t session = new_session(model), generated = 0, position, context;
    const uint32_t ids[] = {72, 101, 108, 108, 111};
    const char *kept = bonsai_last_error();
    size_t length = strlen(kept);
    bonsai_sampling_options drawn;
    EXPECT(BONSAI_OK, bonsai_sampling_options_init(&drawn, sizeof drawn));
    int32_t ended = BONSAI_OK;
    for (; ended == BONSAI_OK && drawn.seed < 50; drawn.seed++) { /* until one draws the end */
        EXPECT(BONSAI_OK, bonsai_session_set_sampling(session, &drawn));
        EXPECT(BONSAI_OK, bonsai_session_reset(session));
        EXPECT(BONSAI_OK, bonsai_session_prompt(session, ids, 5));
        ended = bonsai_session_generate(session, 100, NULL, NULL, &generated);
    }
    require(ended == BONSAI_END, "one of the seeds draws an end");
    require(bonsai_last_error() == kept && strlen(kept) == length, "an end is no failure, so the last message stays");
    require(generated < 100, "the model ends its answer");
    bonsai_sampling_options greedy;
    EXPECT(BONSAI_OK, bonsai_sampling_options_init(&greedy, sizeof greedy));
    greedy.temperature = 0; /* this model then never ends */
    EXPECT(BONSAI_OK, bonsai_session_set_sampling(session, &greedy));
    EXPECT(BONSAI_OK, bonsai_session_reset(session));
    EXPECT(BONSAI_OK, bonsai_session_prompt(session, ids, 5));
    struct generation g = {session, 0, 4, 0};
    EXPECT(BONSAI_OK, bonsai_session_generate(session, 100, token, &g, &generated));
    require(generated == 4 && g.count == 4, "the callback ends a generation");
    g.cancel = 1;
    g.count = 0;
    EXPECT(BONSAI_ERROR_CANCELLED, bonsai_session_generate(session, 100, token, &g, &generated));
    require(generated == 4, "a cancelled generation says how far it came");
    EXPECT(BONSAI_OK, bonsai_session_generate(session, 3, NULL, NULL, &generated));
    require(generated == 3, "the session goes on after that");
    EXPECT(BONSAI_ERROR_CONTEXT_FULL, bonsai_session_generate(session, 100000, NULL, NULL, &generated));
    EXPECT(BONSAI_OK, bonsai_session_position(session, &position, &context));
    require(position == context && context == 512, "the context is full");
    EXPECT(BONSAI_OK, bonsai_session_cancel(session)); /* nobody notices it */
    EXPECT(BONSAI_OK, bonsai_session_reset(session));
    const uint32_t unknown[] = {1, 260};
    EXPECT(BONSAI_ERROR_TOKEN, bonsai_session_prompt(session, unknown, 2));
    EXPECT(BONSAI_OK, bonsai_session_prompt(session, ids, 5));
    bonsai_session_free(session);
}

static void saving(uint64_t model) {
    uint64_t session = new_session(model), copy = new_session(model), size, n, fed;
    static uint32_t ids[513];
    float a[260], b[260];
    for (uint32_t i = 0; i < 513; i++) ids[i] = i % 250;
    EXPECT(BONSAI_OK, bonsai_session_prompt(session, ids, 300));
    EXPECT(BONSAI_ERROR_BUFFER, bonsai_session_save(session, NULL, 0, &size));
    unsigned char *bytes = malloc((size_t)size);
    EXPECT(BONSAI_ERROR_BUFFER, bonsai_session_save(session, bytes, size - 1, &n));
    EXPECT(BONSAI_OK, bonsai_session_save(session, bytes, size, &n));
    EXPECT(BONSAI_OK, bonsai_session_restore(copy, bytes, size));
    EXPECT(BONSAI_ERROR_BUFFER, bonsai_session_logits(session, a, 259, &n));
    EXPECT(BONSAI_OK, bonsai_session_logits(session, a, 260, &n));
    EXPECT(BONSAI_OK, bonsai_session_logits(copy, b, 260, &n));
    require(n == 260 && memcmp(a, b, sizeof a) == 0, "a restored session has the same logits");
    EXPECT(BONSAI_ERROR_FORMAT, bonsai_session_restore(copy, bytes, size - 1));
    bytes[size / 2] ^= 1;
    EXPECT(BONSAI_ERROR_FORMAT, bonsai_session_restore(copy, bytes, size));
    free(bytes);
    ids[290] += 1;
    EXPECT(BONSAI_OK, bonsai_session_set_tokens(copy, ids, 300, &fed));
    require(fed == 10, "only what is new is fed");
    EXPECT(BONSAI_ERROR_CONTEXT_FULL, bonsai_session_set_tokens(copy, ids, 513, NULL));
    bonsai_session_free(session);
    bonsai_session_free(copy);
}

struct work {
    uint64_t session;
    int32_t status;
};

/* Works until a call fails that should not. */
static void *work(void *argument) {
    struct work *w = argument;
    uint64_t session = w->session;
    int32_t status = BONSAI_OK;
    for (;;) {
        const uint32_t ids[] = {1, 2, 3};
        do status = bonsai_session_prompt(session, ids, 3);
        while (status == BONSAI_ERROR_BUSY); /* the other thread has just asked for the position */
        while (status == BONSAI_OK || status == BONSAI_ERROR_BUSY) status = bonsai_session_generate(session, 100000, NULL, NULL, NULL);
        if (status != BONSAI_ERROR_CONTEXT_FULL && status != BONSAI_END) break;
        do status = bonsai_session_reset(session);
        while (status == BONSAI_ERROR_BUSY);
    }
    w->status = status;
    return NULL;
}

static void threads(uint64_t model) {
    pthread_t worker;
    struct work w = {new_session(model), BONSAI_OK};
    require(pthread_create(&worker, NULL, work, &w) == 0, "a thread starts");
    while (bonsai_session_position(w.session, NULL, NULL) != BONSAI_ERROR_BUSY) {}
    EXPECT(BONSAI_OK, bonsai_session_cancel(w.session));
    pthread_join(worker, NULL);
    EXPECT(BONSAI_ERROR_CANCELLED, w.status);
    EXPECT(BONSAI_OK, bonsai_session_reset(w.session));
    require(pthread_create(&worker, NULL, work, &w) == 0, "a thread starts");
    while (bonsai_session_position(w.session, NULL, NULL) != BONSAI_ERROR_BUSY) {}
    EXPECT(BONSAI_OK, bonsai_session_cancel(w.session));
    bonsai_session_free(w.session); /* under the thread's feet */
    pthread_join(worker, NULL);
    require(w.status == BONSAI_ERROR_CANCELLED || w.status == BONSAI_ERROR_HANDLE, "cancelled, or gone before that");
}

static void count_line(void *user, int32_t level, const char *message, uint64_t length) {
    require(level == BONSAI_LOG_INFO && message != NULL && length > 0, "a line of the log");
    *(int *)user += 1;
}

int main(int argc, char **argv) {
    require(argc == 2, "usage: hostile MODEL.gguf");
    require(bonsai_abi_version() == BONSAI_ABI_VERSION, "library and header belong together");
    require(bonsai_last_error()[0] == 0, "nothing has failed yet");
    int lines = 0;
    bonsai_set_log(count_line, &lines);
    uint64_t model = open_model(argv[1]), session = new_session(model);
    require(lines > 0, "the log speaks");
    bonsai_set_log(NULL, NULL);
    nulls(model, session);
    handles(model, session, argv[1]);
    options(model, session);
    texts(model);
    conversations(model);
    damaged_models(argv[1]);
    loading(argv[1]);
    generation(model);
    saving(model);
    threads(model);
    bonsai_session_free(session);
    bonsai_model_free(model);
    puts("hostile: ok");
    return 0;
}
