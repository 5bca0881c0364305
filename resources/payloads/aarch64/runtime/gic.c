/* Sources: Arm IHI 0069 (GICv3) and IHI 0048 (GICv2), register descriptions. */
#include "payload.h"

enum { GICD_CTLR = 0x0, GICD_IGROUPR = 0x80, GICD_ISENABLER = 0x100, GICD_IPRIORITYR = 0x400, GICD_ITARGETSR = 0x800,
       GICD_ICFGR = 0xc00, GICD_SGIR = 0xf00 };
enum { GICC_CTLR = 0x0, GICC_PMR = 0x4, GICC_IAR = 0xc, GICC_EOIR = 0x10 };
enum { GICR_WAKER = 0x14, GICR_SGI_FRAME = 0x10000, GICR_SIZE = 0x20000 };
/* The interrupts of a CPU's own; from here on those that the CPUs share. */
enum { SHARED = 32, SPURIOUS = 1020 };

#define ICC_PMR "S3_0_C4_C6_0"
#define ICC_IAR1 "S3_0_C12_C12_0"
#define ICC_EOIR1 "S3_0_C12_C12_1"
#define ICC_SGI1R "S3_0_C12_C11_5"
#define ICC_SRE "S3_0_C12_C12_5"
#define ICC_IGRPEN1 "S3_0_C12_C12_7"

static const char GIC[] = "/interrupt-controller";
static volatile uint32_t taken[SHARED];

static bool is_v3(void) { return is_compatible(GIC, "arm,gic-v3"); }
static uint64_t distributor(void) { return cells(GIC, 0, "reg", 0); }
static uint64_t cpu_interface(void) { return cells(GIC, 0, "reg", 2); }

/* The registers of this CPU's own interrupts in version 3. */
static uint64_t private_frame(void)
{
	uint64_t number = read_register("mpidr_el1") & 0xff;
	return cpu_interface() + number * GICR_SIZE + GICR_SGI_FRAME;
}

void enable_gic(void)
{
	if (is_v3()) {
		uint64_t waker = private_frame() - GICR_SGI_FRAME + GICR_WAKER;
		write32(waker, read32(waker) & ~2u);
		while (read32(waker) & 4)
			;
		write32(distributor() + GICD_CTLR, 0x12); /* affinity routing, group 1 */
		write_register(ICC_SRE, read_register(ICC_SRE) | 1);
		write_register(ICC_PMR, 0xff);
		write_register(ICC_IGRPEN1, 1);
	} else {
		write32(distributor() + GICD_CTLR, 1);
		write32(cpu_interface() + GICC_PMR, 0xff);
		write32(cpu_interface() + GICC_CTLR, 1);
	}
}

void enable_interrupt(uint32_t intid)
{
	uint64_t word = 4 * (intid / 32), bit = 1u << intid % 32;
	bool own = is_v3() && intid < SHARED;
	uint64_t registers = own ? private_frame() : distributor();
	if (is_v3())
		write32(registers + GICD_IGROUPR + word, read32(registers + GICD_IGROUPR + word) | bit);
	write8(registers + GICD_IPRIORITYR + intid, 0x80);
	if (intid >= SHARED) {
		uint64_t config = registers + GICD_ICFGR + 4 * (intid / 16);
		write32(config, read32(config) | 2u << intid % 16 * 2);
		if (!is_v3())
			write8(registers + GICD_ITARGETSR + intid, 1);
	}
	write32(registers + GICD_ISENABLER + word, bit);
	barrier();
}

void interrupt_cpu0(uint32_t intid)
{
	barrier();
	if (is_v3())
		write_register(ICC_SGI1R, (uint64_t)intid << 24 | 1);
	else
		write32(distributor() + GICD_SGIR, 1 << 16 | intid);
}

void take_interrupt(void)
{
	uint64_t acknowledged = is_v3() ? read_register(ICC_IAR1) : read32(cpu_interface() + GICC_IAR);
	uint32_t intid = acknowledged & 0x3ff;
	if (intid >= SPURIOUS)
		return;
	/* The timer's line stays up until it is turned off. */
	write_register("cntv_ctl_el0", 0);
	taken[intid % 32] |= 1u << intid / 32;
	if (is_v3())
		write_register(ICC_EOIR1, acknowledged);
	else
		write32(cpu_interface() + GICC_EOIR, acknowledged);
}

bool await_interrupt(uint32_t intid)
{
	enum { SECONDS = 5 };
	uint64_t end = read_register("cntvct_el0") + SECONDS * read_register("cntfrq_el0");
	interrupts_on();
	while (!(taken[intid % 32] & 1u << intid / 32) && read_register("cntvct_el0") < end)
		;
	interrupts_off();
	return taken[intid % 32] & 1u << intid / 32;
}
