/* The machine as its device tree tells it. The command line says what to expect: mem=MIB cpus=N gic=VERSION. */
#include "payload.h"

enum { TIMER_INTID = 27, GREETING_SGI = 3 };

static volatile uint32_t second_runs;

static void second_cpu(void)
{
	second_runs = 1;
	enable_gic();
	interrupt_cpu0(GREETING_SGI);
	psci(PSCI_CPU_OFF, 0, 0, 0);
}

static void check_tree(void)
{
	unsigned cpus = 0;
	while (property("/cpus/cpu", cpus, "reg", NULL))
		cpus++;
	check(cpus == number_option("cpus"), "number of CPUs", cpus);
	uint64_t gic = is_compatible("/interrupt-controller", "arm,gic-v3") ? 3 : 2;
	check(gic == number_option("gic"), "version of the GIC", gic);
	uint64_t start = cells("/memory", 0, "reg", 0), size = cells("/memory", 0, "reg", 1);
	check(size == number_option("mem") << 20, "size of memory", size);
	uint64_t last = start + size - 8;
	write64(last, ~last);
	check(read64(last) == ~last, "last word of memory", read64(last));
}

static void check_clock(void)
{
	uint64_t rtc = cells("/rtc", 0, "reg", 0);
	check(is_compatible("/rtc", "arm,pl031"), "clock in the tree", rtc);
	check(read32(rtc + 0xfe0) == 0x31, "identification of the clock", read32(rtc + 0xfe0));
	check(read32(rtc) > 1700000000, "time", read32(rtc));
}

/* The clock's alarm, a second or two from now: match, mask, raw, masked, clear. */
static void check_alarm(void)
{
	uint64_t rtc = cells("/rtc", 0, "reg", 0);
	uint32_t intid = 32 + cell("/rtc", 0, "interrupts", 1);
	enable_interrupt(intid);
	write32(rtc + 0x4, read32(rtc) + 2);
	check(read32(rtc + 0x14) == 0, "alarm before its time", read32(rtc + 0x14));
	write32(rtc + 0x10, 1);
	check(await_interrupt(intid), "interrupt of the alarm", intid);
	check(read32(rtc + 0x14) == 1 && read32(rtc + 0x18) == 1, "alarm", read32(rtc + 0x18));
	write32(rtc + 0x1c, 1);
	check(read32(rtc + 0x14) == 0, "alarm that was cleared", read32(rtc + 0x14));
}

static void check_interrupts(void)
{
	enable_gic();
	enable_interrupt(TIMER_INTID);
	write_register("cntv_tval_el0", read_register("cntfrq_el0") / 100);
	write_register("cntv_ctl_el0", 1);
	check(await_interrupt(TIMER_INTID), "interrupt of the timer", read_register("cntv_ctl_el0"));

	/* The serial port has transmitted: PL011's mask register, or the 8250's enable register. */
	uint64_t port = cells("/serial", 0, "reg", 0);
	uint32_t intid = 32 + cell("/serial", 0, "interrupts", 1);
	bool pl011 = is_compatible("/serial", "arm,pl011");
	enable_interrupt(intid);
	if (pl011)
		write32(port + 0x38, 1 << 5);
	else
		write8(port + 1, 2);
	check(await_interrupt(intid), "interrupt of the serial port", intid);
	if (pl011)
		write32(port + 0x38, 0);
	else
		write8(port + 1, 0);
	check_alarm();
}

static void check_second_cpu(void)
{
	int64_t version = psci(PSCI_VERSION, 0, 0, 0);
	check(version >= 2, "version of PSCI", version);
	uint64_t affinity = cell("/cpus/cpu", 1, "reg", 0);
	enable_interrupt(GREETING_SGI);
	int64_t result = start_cpu(affinity, second_cpu);
	check(result == 0, "CPU_ON", result);
	check(await_interrupt(GREETING_SGI) && second_runs, "interrupt from the second CPU", second_runs);
	int64_t state = 0;
	for (int tries = 0; tries < 1000000 && state != 1; tries++)
		state = psci(PSCI_AFFINITY_INFO, affinity, 0, 0);
	check(state == 1, "CPU_OFF", state);
}

void main(uint64_t start)
{
	print("Machine from %lx\n", start);
	check_tree();
	check_clock();
	check_interrupts();
	if (number_option("cpus") > 1)
		check_second_cpu();
}
