#include "payload.h"

enum { BEGIN_NODE = 1, END_NODE = 2, PROPERTY = 3, NOP = 4 };
enum { DEPTH = 8 };

static uint32_t big_endian(const uint8_t *bytes)
{
	return (uint32_t)bytes[0] << 24 | bytes[1] << 16 | bytes[2] << 8 | bytes[3];
}

bool is_text(const uint8_t *left, const char *right)
{
	while (*right && *left == (uint8_t)*right)
		left++, right++;
	return *left == (uint8_t)*right;
}

/* How many characters of the path are the node's name, up to its address; 0 if it is another. */
static unsigned matched(const uint8_t *name, const char *path)
{
	unsigned length = 1;
	if (path[0] != '/')
		return 0;
	while (*name && *name != '@' && *name == (uint8_t)path[length])
		name++, length++;
	bool name_ends = !*name || *name == '@', part_ends = !path[length] || path[length] == '/';
	return name_ends && part_ends ? length : 0;
}

const uint8_t *property(const char *path, unsigned index, const char *name, uint32_t *size)
{
	const uint8_t *at = device_tree + big_endian(device_tree + 8);
	const uint8_t *names = device_tree + big_endian(device_tree + 12);
	/* Of each node that we are in: how much of the path it and its parents make up, -1 if they are elsewhere. */
	int made_up[DEPTH];
	int depth = 0;
	int wanted = 0;
	bool found = false;

	while (path[wanted])
		wanted++;
	for (;;) {
		uint32_t token = big_endian(at);
		at += 4;
		if (token == BEGIN_NODE) {
			unsigned part = 0;
			if (depth > 0 && made_up[depth - 1] >= 0)
				part = matched(at, path + made_up[depth - 1]);
			made_up[depth] = depth == 0 ? 0 : part ? made_up[depth - 1] + (int)part : -1;
			found = made_up[depth] == wanted && index-- == 0;
			depth++;
			while (*at++)
				;
			at = (const uint8_t *)(((uint64_t)at + 3) & ~3ul);
		} else if (token == PROPERTY) {
			uint32_t length = big_endian(at);
			if (found && is_text(names + big_endian(at + 4), name)) {
				if (size)
					*size = length;
				return at + 8;
			}
			at += 8 + ((length + 3) & ~3u);
		} else if (token == END_NODE) {
			/* What follows a node's children are no properties of it. */
			found = false;
			depth--;
		} else if (token != NOP) {
			return NULL;
		}
	}
}

uint32_t cell(const char *path, unsigned index, const char *name, unsigned number)
{
	uint32_t size;
	const uint8_t *value = property(path, index, name, &size);
	return value && 4 * number < size ? big_endian(value + 4 * number) : 0;
}

uint64_t cells(const char *path, unsigned index, const char *name, unsigned number)
{
	return (uint64_t)cell(path, index, name, 2 * number) << 32 | cell(path, index, name, 2 * number + 1);
}

bool is_compatible(const char *path, const char *name)
{
	uint32_t size;
	const uint8_t *value = property(path, 0, "compatible", &size);
	for (const uint8_t *at = value; value && at < value + size; at++) {
		if (is_text(at, name))
			return true;
		while (*at)
			at++;
	}
	return false;
}

uint64_t number_option(const char *name)
{
	const uint8_t *text = property("/chosen", 0, "bootargs", NULL);
	while (text && *text) {
		const char *left = name;
		uint64_t value = 0;
		while (*left && *text == (uint8_t)*left)
			left++, text++;
		if (!*left && *text == '=') {
			for (text++; *text >= '0' && *text <= '9'; text++)
				value = 10 * value + *text - '0';
			return value;
		}
		while (*text && *text != ' ')
			text++;
		while (*text == ' ')
			text++;
	}
	return 0;
}
