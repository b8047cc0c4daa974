/* Opens, uses and frees a model a hundred times; memory must not grow. reload MODEL.gguf */
#include "libbonsai.h"

#include <stdio.h>
#include <stdlib.h>

static void check(int32_t status) {
    if (status != BONSAI_OK && status != BONSAI_END) {
        fprintf(stderr, "error %d: %s\n", (int)status, bonsai_last_error());
        exit(1);
    }
}

/* Resident memory of this process, in kB. */
static long resident(void) {
    char line[256];
    long found = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) sscanf(line, "VmRSS: %ld", &found);
    if (file) fclose(file);
    return found;
}

static void use(const char *path) {
    uint64_t model, session, text, length;
    char buffer[1024];
    const uint32_t ids[] = {72, 101, 108, 108, 111};
    check(bonsai_model_open(path, BONSAI_STRLEN, NULL, &model));
    check(bonsai_model_info(model, buffer, sizeof buffer, &length));
    bonsai_session_options options = {sizeof options, 0, 2, 0, 0}; /* threads of its own */
    check(bonsai_session_new(model, &options, &session));
    check(bonsai_text_new(model, &text));
    check(bonsai_session_prompt(session, ids, 5));
    check(bonsai_session_generate(session, 5, NULL, NULL, NULL));
    bonsai_model_free(model);
    bonsai_session_free(session);
    bonsai_text_free(text);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    for (int i = 0; i < 20; i++) use(argv[1]);
    long before = resident();
    for (int i = 0; i < 100; i++) use(argv[1]);
    long grown = resident() - before;
    printf("reload: %ld kB before, %ld kB more after 100 times\n", before, grown);
    return before > 0 && grown < 1024 ? 0 : 1;
}
