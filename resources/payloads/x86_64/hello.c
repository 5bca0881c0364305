/* A line on COM1, then power-off. */
#include "payload.h"

void main(void) { print("Hello from a guest\n"); }
