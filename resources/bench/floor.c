/*
 * The least that a monitor can do for a payload: only the KVM calls, no devices. `cargo bench-vm` measures carpel against it.
 *
 *     floor PAYLOAD [MEMORY_MIB [COMMAND_LINE]]
 *
 * It follows the order that is cheapest: memory slots before the split irqchip, one vCPU last. COM1 bytes go to standard
 * output, every other read gives all ones, and any of carpel's ways to end a guest (or a triple fault) ends it.
 */
#include <elf.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define GIB (1ull << 30)
/* Where the krun layout ends low RAM, puts the identity map page and TSS, and the boot structures (docs/maps.md). */
#define LOW_RAM_LIMIT 0xc0000000ull
#define HIGH_RAM_START (4 * GIB)
#define IDENTITY_MAP 0xfeffc000ull
#define TSS 0xfeffd000ull
#define GDT 0x500
#define ZERO_PAGE 0x7000
#define PML4 0x9000
#define PDPT 0xa000
#define PD 0xb000
#define COMMAND_LINE 0x20000
#define COMMAND_LINE_SIZE 0x800
/* Transparent huge pages need both sides of the mapping on a 2 MiB boundary. */
#define HUGE_PAGE (2ull << 20)

static int kvm, vm, vcpu;
static uint8_t *low_ram;

static int call(int fd, unsigned long request, void *argument, const char *name)
{
	int result = ioctl(fd, request, argument);
	if (result < 0)
		err(125, "%s", name);
	return result;
}
#define CALL(fd, request, argument) call(fd, request, (void *)(uintptr_t)(argument), #request)

static uint8_t *add_slot(uint32_t slot, uint64_t start, uint64_t size)
{
	void *host = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (host == MAP_FAILED)
		err(125, "mmap of %llu bytes", (unsigned long long)size);
	uintptr_t aligned = ((uintptr_t)host + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
	struct kvm_userspace_memory_region region = {
		.slot = slot, .guest_phys_addr = start, .memory_size = size, .userspace_addr = aligned,
	};
	CALL(vm, KVM_SET_USER_MEMORY_REGION, &region);
	return (uint8_t *)aligned;
}

static uint64_t load_elf(const char *path, uint64_t low_size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat status;
	if (fd < 0 || fstat(fd, &status) < 0)
		err(2, "%s", path);
	const uint8_t *file = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (file == MAP_FAILED)
		err(2, "%s", path);
	const Elf64_Ehdr *header = (const void *)file;
	if ((size_t)status.st_size < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG))
		errx(2, "%s is not an ELF file", path);
	const Elf64_Phdr *segments = (const void *)(file + header->e_phoff);
	for (int i = 0; i < header->e_phnum; i++) {
		const Elf64_Phdr *segment = &segments[i];
		if (segment->p_type != PT_LOAD)
			continue;
		if (segment->p_paddr + segment->p_memsz > low_size)
			errx(2, "%s does not fit", path);
		memcpy(low_ram + segment->p_paddr, file + segment->p_offset, segment->p_filesz);
	}
	return header->e_entry;
}

static void write_zero_page(uint64_t low_size, uint64_t high_size, const char *command_line)
{
	uint8_t *page = low_ram + ZERO_PAGE;
	struct __attribute__((packed)) { uint64_t start, size; uint32_t type; } map[] = {
		{ 0, 0x9fc00, 1 },
		{ 0x100000, low_size - 0x100000, 1 },
		{ HIGH_RAM_START, high_size, 1 },
	};
	if (strlen(command_line) >= COMMAND_LINE_SIZE)
		errx(2, "the command line has more than %d bytes", COMMAND_LINE_SIZE - 1);
	strcpy((char *)low_ram + COMMAND_LINE, command_line);
	/* Offsets: Linux, Documentation/arch/x86/zero-page.rst. */
	page[0x1e8] = high_size ? 3 : 2;
	*(uint32_t *)(page + 0x228) = COMMAND_LINE;
	memcpy(page + 0x2d0, map, sizeof map);
}

static void write_tables(void)
{
	/* Flat 64-bit code at 0x8 and data at 0x10. */
	static const uint64_t gdt[] = { 0, 0x00af9b000000ffff, 0x00cf93000000ffff };
	memcpy(low_ram + GDT, gdt, sizeof gdt);
	/* Present and writable; 0x83 is also a 2 MiB page. */
	*(uint64_t *)(low_ram + PML4) = PDPT | 3;
	*(uint64_t *)(low_ram + PDPT) = PD | 3;
	for (uint64_t i = 0; i < 512; i++)
		((uint64_t *)(low_ram + PD))[i] = i * HUGE_PAGE | 0x83;
}

static void create_vcpu(uint64_t entry)
{
	vcpu = CALL(vm, KVM_CREATE_VCPU, 0);
	static struct { struct kvm_cpuid2 header; struct kvm_cpuid_entry2 entries[256]; } cpuid = { .header.nent = 256 };
	CALL(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
	CALL(vcpu, KVM_SET_CPUID2, &cpuid);

	struct kvm_sregs sregs;
	CALL(vcpu, KVM_GET_SREGS, &sregs);
	struct kvm_segment code = { .limit = ~0u, .selector = 0x8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = { .limit = ~0u, .selector = 0x10, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.gdt.base = GDT;
	sregs.gdt.limit = 23;
	sregs.cr0 = 0x80000011; /* PG, ET, PE */
	sregs.cr3 = PML4;
	sregs.cr4 = 0x20;   /* PAE */
	sregs.efer = 0x500; /* LMA, LME */
	CALL(vcpu, KVM_SET_SREGS, &sregs);
	struct kvm_regs regs = { .rip = entry, .rsi = ZERO_PAGE, .rsp = 0x8ff0, .rflags = 2 };
	CALL(vcpu, KVM_SET_REGS, &regs);
}

static void port_exit(struct kvm_run *run)
{
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	if (run->io.direction == KVM_EXIT_IO_IN) {
		memset(data, 0xff, (size_t)run->io.size * run->io.count);
		return;
	}
	switch (run->io.port) {
	case 0x3f8:
		if (write(1, data, run->io.count) < 0)
			err(125, "write");
		break;
	case 0xcf9: /* reset */
	case 0x604: /* power-off */
	case 0x064: /* i8042 */
		exit(0);
	case 0xf4: /* debug exit */
		exit(*data << 1 | 1);
	}
}

static void run_vcpu(struct kvm_run *run)
{
	for (;;) {
		if (ioctl(vcpu, KVM_RUN, 0) < 0) {
			if (errno == EINTR)
				continue;
			err(125, "KVM_RUN");
		}
		switch (run->exit_reason) {
		case KVM_EXIT_IO:
			port_exit(run);
			break;
		case KVM_EXIT_MMIO:
			if (!run->mmio.is_write)
				memset(run->mmio.data, 0xff, run->mmio.len);
			break;
		default:
			errx(121, "exit reason %u", run->exit_reason);
		}
	}
}

int main(int argc, char **argv)
{
	if (argc < 2)
		errx(2, "usage: floor PAYLOAD [MEMORY_MIB [COMMAND_LINE]]");
	uint64_t memory = (argc > 2 ? strtoull(argv[2], NULL, 0) : 128) << 20;
	uint64_t low_size = memory < LOW_RAM_LIMIT ? memory : LOW_RAM_LIMIT;
	if (low_size < HUGE_PAGE)
		errx(2, "at least 2 MiB of memory are needed");

	kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		err(125, "/dev/kvm");
	vm = CALL(kvm, KVM_CREATE_VM, 0);
	low_ram = add_slot(0, 0, low_size);
	if (memory > low_size)
		add_slot(1, HIGH_RAM_START, memory - low_size);
	CALL(vm, KVM_SET_TSS_ADDR, TSS);
	uint64_t identity_map = IDENTITY_MAP;
	CALL(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
	struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };
	CALL(vm, KVM_ENABLE_CAP, &split);

	uint64_t entry = load_elf(argv[1], low_size);
	write_zero_page(low_size, memory - low_size, argc > 3 ? argv[3] : "");
	write_tables();
	create_vcpu(entry);
	int size = CALL(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (run == MAP_FAILED)
		err(125, "mmap of the vCPU");
	run_vcpu(run);
}
