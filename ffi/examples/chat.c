/* Prints what a model writes after a prompt, as it comes: chat MODEL.gguf PROMPT [TOKENS] */
#include "libbonsai.h"

#include <stdio.h>
#include <stdlib.h>

static int32_t print(void *user, uint32_t id, const char *text, uint64_t length) {
    (void)user;
    (void)id;
    fwrite(text, 1, (size_t)length, stdout);
    return fflush(stdout); /* a reader who left ends the generation */
}

/* Ends the program unless all is well. */
static void check(int32_t status) {
    if (status != BONSAI_OK && status != BONSAI_END) {
        fprintf(stderr, "error %d: %s\n", (int)status, bonsai_last_error());
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: chat MODEL.gguf PROMPT [TOKENS]\n");
        return 2;
    }
    uint64_t model, session, count;
    check(bonsai_model_open(argv[1], BONSAI_STRLEN, NULL, &model));
    check(bonsai_session_new(model, NULL, &session));

    bonsai_sampling_options sampling;
    check(bonsai_sampling_options_init(&sampling, sizeof sampling));
    sampling.temperature = 0; /* always the likeliest token */
    check(bonsai_session_set_sampling(session, &sampling));

    bonsai_model_encode(model, argv[2], BONSAI_STRLEN, 1, NULL, 0, &count); /* how many will there be? */
    uint32_t *ids = (uint32_t *)malloc((size_t)(count + 1) * sizeof *ids);
    check(bonsai_model_encode(model, argv[2], BONSAI_STRLEN, 1, ids, count, &count));
    check(bonsai_session_prompt(session, ids, count));
    free(ids);

    uint64_t most = argc > 3 ? strtoull(argv[3], NULL, 10) : 128;
    check(bonsai_session_generate(session, most, print, NULL, NULL));
    puts("");
    bonsai_session_free(session);
    bonsai_model_free(model);
    return 0;
}
