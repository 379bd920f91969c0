/* Compares the answers of net.c with @BITS: make test.

   Define @NET_PRINT(text) as a function of your device to run it there. */

#if !defined(ARDUINO) && !defined(ESP_PLATFORM)

#include "@net.h"

#if !defined(@NET_PRINT)
#include <stdio.h>
#define @NET_PRINT(text) fputs(text, stdout)
#endif

#define SAMPLES @COUNT

static const @TYPE samples[] = {
@SAMPLES
};

/* Bits of the logits, float32. */
static const uint32_t expected[SAMPLES * @NET_CLASSES] = {
@LOGITS
};

static uint8_t arena[@NET_ARENA_BYTES];

int main(void)
{
    const uint32_t size = @NET_INPUT_BYTES / sizeof samples[0];
    uint32_t n, c, wrong = 0;
    for (n = 0; n < SAMPLES; n++) {
        union { float real[@NET_CLASSES]; uint32_t bits[@NET_CLASSES]; } found;
        float probabilities[@NET_CLASSES], sum = 0;
        uint32_t is_wrong = 0, best = 0, likely = 0;
        @net_logits(samples + n * size, arena, found.real);
        @net_probabilities(samples + n * size, arena, probabilities);
        for (c = 0; c < @NET_CLASSES; c++) {
            is_wrong |= found.bits[c] != expected[n * @NET_CLASSES + c];
            best = found.real[c] > found.real[best] ? c : best;
            likely = probabilities[c] > probabilities[likely] ? c : likely;
            sum += probabilities[c];
        }
        /* Logits that are almost equal may have the same probability. */
        is_wrong |= probabilities[likely] != probabilities[best] || sum < 0.999f || sum > 1.001f;
        wrong += is_wrong;
    }
    @NET_PRINT(wrong ? "FAIL: answers are not @BITS\n" : "PASS: @COUNT samples, @BITS\n");
    return wrong != 0;
}

#endif
