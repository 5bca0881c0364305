/*
 * What the test guests share. They run at EL1 with the MMU off, so that memory is as strict as device registers: no unaligned
 * access, no exclusives.
 */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline uint8_t read8(uint64_t address) { return *(volatile uint8_t *)address; }
static inline uint32_t read32(uint64_t address) { return *(volatile uint32_t *)address; }
static inline uint64_t read64(uint64_t address) { return *(volatile uint64_t *)address; }
static inline void write8(uint64_t address, uint8_t value) { *(volatile uint8_t *)address = value; }
static inline void write32(uint64_t address, uint32_t value) { *(volatile uint32_t *)address = value; }
static inline void write64(uint64_t address, uint64_t value) { *(volatile uint64_t *)address = value; }

#define read_register(name) ({ uint64_t value_; __asm__ volatile("mrs %0, " name : "=r"(value_)); value_; })
#define write_register(name, value) __asm__ volatile("msr " name ", %0\n\tisb" : : "r"((uint64_t)(value)) : "memory")
static inline void barrier(void) { __asm__ volatile("dsb sy" : : : "memory"); }

static inline void interrupts_on(void) { __asm__ volatile("msr daifclr, #2" : : : "memory"); }
static inline void interrupts_off(void) { __asm__ volatile("msr daifset, #2" : : : "memory"); }

/* What a payload does, and where its first byte is. */
void main(uint64_t start);

/* The serial port of the device tree's stdout-path, without looking at its status: it is always ready. */
void put_char(char byte);
/* The conversions are %s, %lu and %lx (0x and no padding). */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Prints "ok NAME" or "FAILED NAME: VALUE"; `finish` says whether one failed, and powers off. */
void check(bool passed, const char *name, uint64_t value);
_Noreturn void finish(void);

/* PSCI (Arm DEN0022) by HVC. */
enum { PSCI_VERSION = 0x84000000, PSCI_CPU_OFF = 0x84000002, PSCI_SYSTEM_OFF = 0x84000008 };
#define PSCI_CPU_ON 0xc4000003u
#define PSCI_AFFINITY_INFO 0xc4000004u
int64_t psci(uint64_t function, uint64_t first, uint64_t second, uint64_t third);
/* Starts the CPU of this affinity; it calls the function. */
int64_t start_cpu(uint64_t affinity, void (*function)(void));

/*
 * The device tree (Devicetree Specification 0.4, chapter 5). A node is found by the start of its path, without its addresses, as
 * "/cpus/cpu"; `index` counts those that match. The value of a property is NULL where there is none.
 */
extern const uint8_t *device_tree;
const uint8_t *property(const char *path, unsigned index, const char *name, uint32_t *size);
/* A property's 32-bit cell, or two of them as one number; 0 where there is none. */
uint32_t cell(const char *path, unsigned index, const char *name, unsigned number);
uint64_t cells(const char *path, unsigned index, const char *name, unsigned number);
bool is_text(const uint8_t *left, const char *right);
/* Whether one of the strings in "compatible" is this. */
bool is_compatible(const char *path, const char *name);
/* Of `name=value` on the command line, the value. */
uint64_t number_option(const char *name);

/* The interrupt controller, either version, for the CPU that calls. */
void enable_gic(void);
/* Lets an interrupt (its INTID) through, to CPU 0; an SPI is edge-triggered. */
void enable_interrupt(uint32_t intid);
/* A software-generated interrupt (0 to 15) for CPU 0. */
void interrupt_cpu0(uint32_t intid);
/* Waits for this interrupt, at most a few seconds; whether it came. */
bool await_interrupt(uint32_t intid);
#endif
