/* Classifies one input and prints the most probable class: west build -b BOARD zephyr */
#include <zephyr/kernel.h>
#include <zephyr/sys/printk.h>
#include "@net.h"

static uint8_t arena[@NET_ARENA_BYTES];
static @TYPE input[@NET_INPUT_BYTES / sizeof(@TYPE)];

int main(void)
{
    float probabilities[@NET_CLASSES];
    int best = 0, n;
    /* Fill `input` from the sensor here. */
    @net_probabilities(input, arena, probabilities);
    for (n = 1; n < @NET_CLASSES; n++)
        if (probabilities[n] > probabilities[best])
            best = n;
    printk("%s\n", @net_labels[best]);
    return 0;
}
