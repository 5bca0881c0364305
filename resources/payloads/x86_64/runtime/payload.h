/*
 * What the test guests share. They run in long mode on one flat identity map, without SSE (the KVM that they are tested on
 * emulates instructions and knows none of it) and without the red zone (interrupts use the same stack).
 */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COM1 0x3f8
#define DEBUG_EXIT 0xf4
#define PVPANIC 0x505
#define PM1A_CNT 0x604
#define RESET_CONTROL 0xcf9
#define I8042_DATA 0x60
#define I8042_STATUS 0x64
#define IOAPIC 0xfec00000ul
#define LAPIC 0xfee00000ul

/* boot_params, as the boot protocol hands it over in RSI. */
extern const uint8_t *boot_params;

static inline void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outw(uint16_t port, uint16_t value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }

static inline uint8_t inb(uint16_t port)
{
	uint8_t value;
	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint16_t inw(uint16_t port)
{
	uint16_t value;
	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint32_t inl(uint16_t port)
{
	uint32_t value;
	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline uint64_t rdtsc(void)
{
	uint32_t low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static inline uint8_t read8(uint64_t address) { return *(volatile uint8_t *)address; }
static inline uint16_t read16(uint64_t address) { return *(volatile uint16_t *)address; }
static inline uint32_t read32(uint64_t address) { return *(volatile uint32_t *)address; }
static inline uint64_t read64(uint64_t address) { return *(volatile uint64_t *)address; }
static inline void write32(uint64_t address, uint32_t value) { *(volatile uint32_t *)address = value; }
static inline void write64(uint64_t address, uint64_t value) { *(volatile uint64_t *)address = value; }

static inline void interrupts_on(void) { __asm__ volatile("sti" : : : "memory"); }
static inline void interrupts_off(void) { __asm__ volatile("cli" : : : "memory"); }
/* An interrupt between the two instructions is not lost: STI takes effect after the next one. */
static inline void wait_for_interrupt(void) { __asm__ volatile("sti; hlt; cli" : : : "memory"); }
static inline void pause(void) { __asm__ volatile("pause" : : : "memory"); }

/* COM1, without looking at its status: the monitor's serial port is always ready. */
void put_char(char byte);
/* The conversions are %s, %c, %lu and %lx (0x and no padding). */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Prints "ok NAME" or "FAILED NAME: VALUE"; `finish` then powers off, or gives 1 to the debug exit if one failed. */
void check(bool passed, const char *name, uint64_t value);
_Noreturn void finish(void);
_Noreturn void power_off(void);
_Noreturn void debug_exit(uint8_t value);
_Noreturn void halt_forever(void);

/* The kernel command line; of `name=value` on it, the value as text up to the next space (NULL: not there), or as a number. */
const char *command_line(void);
const char *option(const char *name);
uint64_t number_option(const char *name, uint64_t otherwise);
/* Whether a text (up to a space or its end) equals a word. */
bool is_word(const char *text, const char *word);
bool same_bytes(const void *left, const void *right, size_t size);

/* The initial RAM disk of boot_params (size 0: none), and its e820 entries. */
uint64_t initrd_start(void);
uint64_t initrd_size(void);
struct e820_entry {
	uint64_t start, size;
	uint32_t type;
};
enum { E820_RAM = 1 };
uint64_t e820_count(void);
struct e820_entry e820(uint64_t index);

/* Identity-maps the GiB that holds an address (boot maps only the first one). */
void map_gib(uint64_t address);

/* Sets up an interrupt descriptor table and the local APIC; a handler is a function with the `interrupt` attribute. */
struct interrupt_frame;
typedef void handler(struct interrupt_frame *);
void set_handler(uint8_t vector, handler *function);
void enable_lapic(void);
static inline void end_of_interrupt(void) { write32(LAPIC + 0xb0, 0); }
/* Lets an IOAPIC pin (edge, active high) raise a vector on this CPU. */
void route_pin(uint8_t pin, uint8_t vector);

/*
 * Starts another CPU by INIT, start-up IPI, start-up IPI at a page (below 1 MiB, overwritten). It runs the function in long
 * mode on the page tables of this CPU with a stack of its own (64 CPUs at most), interrupts off.
 */
void start_cpu(uint8_t apic_id, uint8_t page, void (*function)(void));
/* The interrupts that this takes, for payloads that bring their own trampoline. */
enum { INIT_IPI = 0x4500, START_UP_IPI = 0x4600 };
void send_ipi(uint8_t apic_id, uint32_t command);

/* ACPI tables as the specification's System Description Table Header; NULL if there is none of that signature. */
struct acpi_header {
	char signature[4];
	uint32_t length;
	uint8_t revision, checksum;
	char oem[6], oem_table[8];
	uint32_t oem_revision, creator, creator_revision;
} __attribute__((packed));
const uint8_t *find_rsdp(void);
const struct acpi_header *acpi_table(uint64_t index);
const struct acpi_header *find_acpi_table(const char *signature);
uint8_t byte_sum(const void *bytes, size_t size);

#endif
