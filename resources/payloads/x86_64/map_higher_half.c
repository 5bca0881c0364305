/*
 * The map of a higher-half kernel: itself at -2 GiB, a heap above, stacks with guard pages from 0xFFFF_FFFF_C000_0000 on, the page
 * directory of the last GiB mapped into itself at 0xFFFF_FFFF_FF60_0000; a user program at 0x40_0000 in ring 3, its stack below
 * 0x7FFF_0000_0000, guards around both. Each guard is touched, and the page fault must name it. `hang=1` stays in this map.
 */
#include "payload.h"

#define KERNEL_BASE 0xffffffff80000000ul
#define HEAP (KERNEL_BASE + (64ul << 20))
#define STACKS 0xffffffffc0000000ul
#define RECURSIVE 0xffffffffff600000ul
#define USER_CODE 0x400000ul
#define USER_STACK_TOP 0x7fff00000000ul
#define USER_GUARD_END 0x7ffffffff000ul

enum { PAGE = 0x1000, PRESENT = 0x1, WRITABLE = 0x2, USER = 0x4, HEAP_PAGES = 16, STACK_PAGES = 4, STACK_COUNT = 3 };
/* Ring 3's are 0x1b (data) and 0x23 (code). */
enum { KERNEL_CODE = 0x08, KERNEL_DATA = 0x10, TASK = 0x28 };
/* Page-fault error codes: bit 0 protection, bit 1 write, bit 2 from ring 3. */
enum { READ_ABSENT = 0, WRITE_ABSENT = 2, WRITE_PROTECTED = 3, USER_READ_PROTECTED = 5, NO_FAULT = 0x100 };
/* In the last GiB's page directory. */
enum { RECURSIVE_ENTRY = 507 };

struct frame {
	uint64_t ip, cs, flags, sp, ss;
};

extern uint8_t text_start[], text_end[], image_end[], user_program[], user_program_end[];
static uint64_t *root;
static volatile uint64_t resume, fault_address, fault_error;
uint64_t kernel_stack;

/* The map of the boot protocol gets a second place for its first GiB, and the program goes on there. */
__asm__(".pushsection .boot, \"ax\"\n"
	".globl _start\n"
	"_start:\n"
	"	mov %rsi, %rdi\n"
	"	mov %cr3, %rax\n"
	"	mov (%rax), %rbx\n"                 /* the entry of the page that maps the first GiB */
	"	mov %rbx, 511*8(%rax)\n"
	"	and $~0xfff, %rbx\n"
	"	mov (%rbx), %rcx\n"
	"	mov %rcx, 510*8(%rbx)\n"
	"	mov $boot_stack_end, %rsp\n"
	"	mov $start_high, %rax\n"
	"	jmp *%rax\n"
	".popsection\n"
	".pushsection .bss.stack, \"aw\", @nobits\n"
	"	.balign 16\n"
	"	.skip 16384\n"
	"boot_stack_end:\n"
	".popsection\n"
	".pushsection .text.user, \"ax\"\n"
	/* void enter_user(uint64_t ip, uint64_t sp): returns when ring 3 faults. */
	".globl enter_user\n"
	"enter_user:\n"
	"	push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
	"	mov %rsp, kernel_stack(%rip)\n"
	"	push $0x1b\n push %rsi\n push $0x2\n push $0x23\n push %rdi\n"
	"	iretq\n"
	".globl left_user\n"
	"left_user:\n"
	"	pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
	"	ret\n"
	/* Uses its stack, then reads the kernel's memory, which it must not: that also ends it, as software KVMs know no system call. */
	".globl user_program, user_program_end\n"
	"user_program:\n"
	"	push $0x55\n"
	"	pop %rax\n"
	"	mov $0xffffffff80101000, %rbx\n"
	"	mov (%rbx), %al\n"
	"1:	jmp 1b\n"
	"user_program_end:\n"
	".popsection");

void enter_user(uint64_t ip, uint64_t sp);
void left_user(void);

static uint64_t physical(const void *address) { return (uint64_t)address - KERNEL_BASE; }
static uint64_t *table_at(uint64_t entry) { return (uint64_t *)((entry & ~0xffful) + KERNEL_BASE); }

static void *new_page(void)
{
	enum { PAGES = 96 };
	static uint8_t pages[PAGES][PAGE] __attribute__((aligned(4096)));
	static int used;
	if (used == PAGES)
		debug_exit(3);
	return pages[used++];
}

static void map_page(uint64_t address, uint64_t to, uint64_t flags)
{
	uint64_t *table = root;
	for (int shift = 39; shift > 12; shift -= 9) {
		uint64_t *entry = &table[address >> shift & 511];
		if (!*entry)
			*entry = physical(new_page()) | PRESENT | WRITABLE | USER;
		table = table_at(*entry);
	}
	table[address >> 12 & 511] = to | flags | PRESENT;
}

static void map_new(uint64_t start, int pages, uint64_t flags)
{
	for (int i = 0; i < pages; i++)
		map_page(start + i * PAGE, physical(new_page()), flags);
}

/* Stack i has a guard page below it. */
static uint64_t stack_bottom(int i) { return STACKS + i * (STACK_PAGES + 1) * PAGE + PAGE; }

static void build_map(void)
{
	root = new_page();
	for (uint64_t at = (uint64_t)text_start; at < (uint64_t)image_end; at += PAGE)
		map_page(at, at - KERNEL_BASE, at < (uint64_t)text_end ? 0 : WRITABLE);
	map_new(HEAP, HEAP_PAGES, WRITABLE);
	for (int i = 0; i < STACK_COUNT; i++)
		map_new(stack_bottom(i), STACK_PAGES, WRITABLE);
	map_new(USER_CODE, 1, USER | WRITABLE);
	map_new(USER_STACK_TOP - STACK_PAGES * PAGE, STACK_PAGES, USER | WRITABLE);
	uint64_t *last_gib = table_at(table_at(root[511])[511]);
	last_gib[RECURSIVE_ENTRY] = physical(last_gib) | PRESENT | WRITABLE;
	__asm__ volatile("mov %0, %%cr3" : : "r"(physical(root)) : "memory");
	uint64_t cr0;
	__asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
	/* Write protection holds for the kernel, too. */
	__asm__ volatile("mov %0, %%cr0" : : "r"(cr0 | 1ul << 16));
}

__attribute__((interrupt)) static void on_page_fault(struct frame *frame, uint64_t error)
{
	uint64_t address;
	__asm__ volatile("mov %%cr2, %0" : "=r"(address));
	fault_address = address;
	fault_error = error;
	if (frame->cs & 3)
		*frame = (struct frame){ (uint64_t)left_user, KERNEL_CODE, 0x2, kernel_stack, KERNEL_DATA };
	else if (resume)
		frame->ip = resume;
	else
		debug_exit(4);
}

/* The page fault has a stack of its own, since an overflown one cannot take it. */
static void set_gate(uint64_t *gate, void *function, uint64_t stack)
{
	uint64_t target = (uint64_t)function;
	gate[0] = (target & 0xffff) | (uint64_t)KERNEL_CODE << 16 | stack << 32 | 0x8e00ul << 32 | (target >> 16 & 0xffff) << 48;
	gate[1] = target >> 32;
}

static void set_descriptors(void)
{
	static struct __attribute__((packed)) { uint32_t reserved; uint64_t rsp[3], reserved2, ist[7]; uint8_t rest[12]; } task;
	static uint64_t gdt[7], idt[256][2];
	task.rsp[0] = stack_bottom(1) + STACK_PAGES * PAGE;
	task.ist[0] = stack_bottom(2) + STACK_PAGES * PAGE;
	uint64_t at = (uint64_t)&task;
	gdt[1] = 0x00af9b000000ffff;
	gdt[2] = 0x00cf93000000ffff;
	gdt[3] = 0x00cff3000000ffff;
	gdt[4] = 0x00affb000000ffff;
	gdt[5] = (sizeof task - 1) | (at & 0xffffff) << 16 | 0x89ul << 40 | (at >> 24 & 0xff) << 56;
	gdt[6] = at >> 32;
	set_gate(idt[14], on_page_fault, 1);
	struct __attribute__((packed)) { uint16_t limit; uint64_t base; } gdtr = { sizeof gdt - 1, (uint64_t)gdt },
									  idtr = { sizeof idt - 1, (uint64_t)idt };
	__asm__ volatile("lgdt %0; lidt %1" : : "m"(gdtr), "m"(idtr));
	__asm__ volatile("push %0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:" : : "i"(KERNEL_CODE) : "rax", "memory");
	__asm__ volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%ss" : : "r"(KERNEL_DATA));
	__asm__ volatile("ltr %w0" : : "r"(TASK));
}

/* The error code of reading an address. */
static uint64_t try_read(uint64_t address)
{
	fault_error = NO_FAULT;
	__asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; mov (%1), %%al; 1:" : "=m"(resume) : "r"(address) : "rax", "memory");
	return fault_error;
}

static uint64_t try_write(uint64_t address)
{
	fault_error = NO_FAULT;
	__asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %0; movb $0, (%1); 1:" : "=m"(resume) : "r"(address) : "rax", "memory");
	return fault_error;
}

/* A push on a stack that is full. */
static uint64_t overflow(uint64_t bottom)
{
	fault_error = NO_FAULT;
	__asm__ volatile("mov %%rsp, %%rbx; lea 1f(%%rip), %%rax; mov %%rax, %0; mov %1, %%rsp; push %%rax; 1: mov %%rbx, %%rsp"
			 : "=m"(resume)
			 : "r"(bottom)
			 : "rax", "rbx", "memory");
	return fault_error;
}

static void check_fault(const char *name, uint64_t error, uint64_t expected, uint64_t address)
{
	check(error == expected && fault_address == address, name, error == expected ? fault_address : error);
}

static void check_guards(void)
{
	static const uint64_t guards[] = { 0, USER_CODE - 1, USER_STACK_TOP, USER_GUARD_END - 1, 0x100000, HEAP + HEAP_PAGES * PAGE };
	for (size_t i = 0; i < sizeof guards / sizeof *guards; i++)
		check_fault("guard", try_read(guards[i]), READ_ABSENT, guards[i]);
	for (int i = 0; i < STACK_COUNT; i++) {
		uint64_t bottom = stack_bottom(i);
		check_fault("stack-guard", try_write(bottom - 1), WRITE_ABSENT, bottom - 1);
		check(try_write(bottom) == NO_FAULT, "stack-bottom", fault_error);
	}
	check_fault("stack-overflow", overflow(stack_bottom(0)), WRITE_ABSENT, stack_bottom(0) - 8);
	check_fault("text-is-read-only", try_write((uint64_t)text_start), WRITE_PROTECTED, (uint64_t)text_start);
}

static void check_heap(void)
{
	for (uint64_t at = HEAP; at < HEAP + HEAP_PAGES * PAGE; at += PAGE)
		write64(at, at);
	uint64_t at = HEAP;
	while (at < HEAP + HEAP_PAGES * PAGE && read64(at) == at)
		at += PAGE;
	check(at == HEAP + HEAP_PAGES * PAGE, "heap", at);
}

/* Page i of the window is what entry i of the page directory points to. */
static void check_recursive(void)
{
	uint64_t *last_gib = table_at(table_at(root[511])[511]), *stacks = table_at(last_gib[0]);
	uint64_t directory = RECURSIVE + RECURSIVE_ENTRY * PAGE;
	check((read64(directory) & ~0x60ul) == (last_gib[0] & ~0x60ul), "recursive-directory", read64(directory));
	check((read64(RECURSIVE + 8) & ~0x60ul) == (stacks[1] & ~0x60ul), "recursive-table", read64(RECURSIVE + 8));
	/* A page mapped through the window is there. */
	uint64_t page = stack_bottom(STACK_COUNT) - PAGE;
	write64(RECURSIVE + (page - STACKS) / PAGE * 8, physical(new_page()) | PRESENT | WRITABLE);
	write64(page, page);
	check(read64(page) == page, "recursive-mapping", read64(page));
}

static void check_user(void)
{
	for (int i = 0; i < user_program_end - user_program; i++)
		((volatile uint8_t *)USER_CODE)[i] = user_program[i];
	resume = 0;
	enter_user(USER_CODE, USER_STACK_TOP);
	check_fault("kernel-is-not-users", fault_error, USER_READ_PROTECTED, (uint64_t)text_start);
	check(read64(USER_STACK_TOP - 8) == 0x55, "user-stack", read64(USER_STACK_TOP - 8));
}

__attribute__((used, noreturn)) static void start_high(const uint8_t *handed_over)
{
	boot_params = handed_over;
	bool hang = number_option("hang", 0);
	build_map();
	set_descriptors();
	check_heap();
	check_guards();
	check_recursive();
	check_user();
	if (hang) {
		print("hanging\n");
		halt_forever();
	}
	finish();
}
