// Classifies one input and prints the most probable class.
#include <@net.h>

static uint8_t arena[@NET_ARENA_BYTES];
static @TYPE input[@NET_INPUT_BYTES / sizeof(@TYPE)];
static float probabilities[@NET_CLASSES];

void setup() { Serial.begin(115200); }

void loop() {
  // Fill `input` from the sensor here.
  @net_probabilities(input, arena, probabilities);
  int best = 0;
  for (int n = 1; n < @NET_CLASSES; n++)
    if (probabilities[n] > probabilities[best]) best = n;
  Serial.println(@net_labels[best]);
  delay(1000);
}
