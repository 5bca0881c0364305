/* Lines without end. */
#include "payload.h"

void main(void)
{
	for (uint64_t line = 0;; line++)
		print("line %lu of a flood that does not end\n", line);
}
