/*
 * Says something and ends, or doesn't: `say=panic|login|nothing how=...` on the command line; `value=` is what the debug exit gets.
 */
#include "payload.h"

static void say(void)
{
	const char *what = option("say");
	if (what && is_word(what, "panic"))
		print("Kernel panic - not syncing: test\n");
	else if (what && is_word(what, "login"))
		print("login: ");
	else if (what && is_word(what, "nothing"))
		return;
	else
		print("ending\n");
}

static void reset_cf9(void) { outb(RESET_CONTROL, 0x6); }
static void reset_i8042(void) { outb(I8042_STATUS, 0xfe); }
static void give_value(void) { debug_exit(number_option("value", 0)); }
static void panic(void) { outb(PVPANIC, 0x1); }

/* The guest panicked but goes on to a crash kernel. */
static void crash_loaded(void)
{
	outb(PVPANIC, 0x2);
	print("crash kernel\n");
	power_off();
}

static void triple_fault(void)
{
	struct __attribute__((packed)) { uint16_t limit; uint64_t base; } none = { 0, 0 };
	__asm__ volatile("lidt %0; ud2" : : "m"(none));
}

/* KVM's instruction emulator, which every access to MMIO goes through, cannot do 16 bytes at once. */
static void internal_error(void)
{
	map_gib(IOAPIC);
	__asm__ volatile("cmpxchg16b (%0)" : : "r"(IOAPIC) : "rax", "rbx", "rcx", "rdx", "memory");
}

static void idle(void)
{
	for (;;)
		__asm__ volatile("sti; hlt");
}

static void spin(void)
{
	for (;;)
		pause();
}

static const struct {
	const char *name;
	void (*function)(void);
} ends[] = {
	{ "power-off", power_off },
	{ "reset-cf9", reset_cf9 },
	{ "reset-i8042", reset_i8042 },
	{ "debug-exit", give_value },
	{ "pvpanic", panic },
	{ "crash-loaded", crash_loaded },
	{ "triple-fault", triple_fault },
	{ "internal-error", internal_error },
	{ "hang", halt_forever },
	{ "idle", idle },
	{ "spin", spin },
};

void main(void)
{
	say();
	const char *how = option("how");
	for (size_t i = 0; how && i < sizeof ends / sizeof *ends; i++)
		if (is_word(how, ends[i].name))
			ends[i].function();
	/* Here only after a reset or a panic that did not end the guest, or without a known `how`. */
	print("still here\n");
	halt_forever();
}
